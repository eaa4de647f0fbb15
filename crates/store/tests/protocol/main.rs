//! x
mod backend;
mod canonical;
mod config;
mod explore;
mod gc;
mod model;
mod settle;
mod state;
mod worlds;
mod writer;
#[test]
fn zoo() {
    for (config, _) in worlds::WORLDS {
        let e = explore::explore(config);
        println!("ZOO {}: {} {} {} {:?} {:?} {:?}", config.name, e.states, e.steps, e.depth, e.took, e.violated, e.never);
    }
}
