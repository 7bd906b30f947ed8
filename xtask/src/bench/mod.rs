//! bench placeholder
pub(crate) fn command(_a: &[&str]) -> anyhow::Result<()> {
    Ok(())
}
