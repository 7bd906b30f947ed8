//! The real file system behind the Disk seam.
