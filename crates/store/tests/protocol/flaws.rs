//! try
use crate::checks::*;
use crate::config::*;
use stateright::{Checker as _, HasDiscoveries, Model as _};
use crate::model::*;

fn caught(config: Config, property: &'static str) {
    let checker = config.checker().finish_when(HasDiscoveries::AllOf([property].into())).threads(1).target_state_count(30_000_000).spawn_bfs().join();
    match checker.discovery(property) {
      Some(path) => {
        let actions = path.into_actions();
        println!("{:?}: {property}: {} steps, {} states\n   {:?}", config.flaw, actions.len(), checker.unique_state_count(), actions);
      }
      None => println!("{:?}: {property}: NOT CAUGHT {} states", config.flaw, checker.unique_state_count()),
    }
}
const INC: Config = Config { name: "inc", stored: 0b01, writers: &[Plan { parent: Some(0), brings: 0b10 }], ..SMALL };
#[test]
fn all() {
    let one = Config { writers: &[BRINGS_1], runs: 1, ..SMALL };
    let of = |flaw, base: Config| Config { flaw: Some(flaw), ..base };
    caught(of(Flaw::DigestKeysUnguarded, one), LOST);
    caught(of(Flaw::DigestKeys, one), LOST);
    caught(of(Flaw::Unguarded, one), LOST);
    caught(of(Flaw::PinsDropped, one), LOST);
    caught(of(Flaw::ParentUnpinned, INC), LOST);
    caught(of(Flaw::SnapshotInTwo, INC), LOST);
    caught(of(Flaw::NotBroughtBack, one), LOST);
    caught(of(Flaw::CommitUnchecked, Config { expiry: true, ..one}), LOST);
    let repack = Config { stored: 0b11, repack: true, writers: &[BRINGS_1], runs: 1, ..SMALL };
    caught(of(Flaw::OldPackFirst, repack), LOST);
    caught(of(Flaw::RepackUnchecked, Config { expiry: true, ..repack }), LOST);
    caught(of(Flaw::TakeoverUnfenced, Config { runs: 2, ..one}), LOST);
    caught(of(Flaw::PinsSinceSnapshot, Config { writers: &[BRINGS_1, BRINGS_1], ..one }), LOST);
    caught(of(Flaw::PinsSinceSnapshot, Config { stored: 0b11, writers: &[BRINGS_1, BRINGS_2], ..one }), LOST);
    caught(of(Flaw::ReaderAsksOnce, Config { reader: true, ..repack }), UNREAD);
}
