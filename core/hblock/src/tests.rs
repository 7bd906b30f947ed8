//! Stories about cores and drivers, told on fakes of the ports.

mod disk;
mod driver;
mod feed;
mod member;
mod network;
mod records;
mod write;
