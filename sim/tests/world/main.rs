//! Tests of the simulated world: each rule that it keeps and each fault that it deals, on small
//! scenarios written against the seams alone.

mod clock;
mod determinism;
mod disk;
mod network;
mod nodes;
mod output;
mod speed;

use hedgerow_sim::world::{NodeIndex, NodeSpec, World, WorldConfig, run_in_world};

/// Runs `scenario` with `seed`; a panic inside fails the test with the seed in its message.
fn check<T, F, S>(seed: u64, scenario: S) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    S: FnOnce(World) -> F + Send + 'static,
{
    check_with(WorldConfig::new(seed), scenario)
}

fn check_with<T, F, S>(config: WorldConfig, scenario: S) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    S: FnOnce(World) -> F + Send + 'static,
{
    match run_in_world(config, scenario) {
        Ok(run) => run.value,
        Err(failure) => panic!("{failure}"),
    }
}

/// Adds nodes `a`, `b`, ... each in a rack of its own.
fn nodes<const COUNT: usize>(world: &World) -> [NodeIndex; COUNT] {
    std::array::from_fn(|number| {
        let name = char::from(b'a' + u8::try_from(number).expect("few nodes")).to_string();
        world.add_node(NodeSpec::new(&name, &format!("rack-{name}"), "dc"))
    })
}
