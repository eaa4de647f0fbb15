//! What happens by itself, or is done by whoever passes: requests land, leases end, what nobody publishes is removed,
//! roots are deleted, damage is found.

use crate::config::Config;
use crate::state::{ObjectState, Row, RowState, Session, SessionState, State, members};

/// A step of nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RootDelete(usize),
    PutLands(usize),
    DeleteLands(usize),
    /// A lease is over, and somebody says so.
    Expire(usize),
    /// What an expired session has not published goes from intent to dead.
    Clear(usize),
    /// The DELETE of a dead object is sent.
    DeleteSend(usize),
    /// A DELETE was acknowledged: the row goes.
    Forget(usize),
    /// All three at once.
    Delete(usize),
    /// An expired session goes, with its pins and roots.
    SessionRemove(usize),
    Damage(usize),
    Mend(usize),
}

impl Config {
    /// The key of an object, which never changes and is nobody else's.
    pub fn key(&self, state: &State, object: usize) -> usize {
        if self.has_digest_keys() {
            return members(state.objects[object].content).next().unwrap_or(object);
        }
        object
    }

    pub fn event(&self, state: &mut State, event: Event) -> Option<()> {
        match event {
            Event::RootDelete(root) => {
                let is_there = state.roots & 1 << root != 0;
                state.roots &= !(1 << root);
                is_there.then_some(())
            }
            Event::PutLands(object) => self.put_lands(state, object),
            Event::DeleteLands(object) => self.delete_lands(state, object),
            Event::Expire(session) => expire(&mut state.sessions[session]),
            Event::Clear(session) => clear(state, session),
            Event::DeleteSend(object) => self.delete_send(state, object),
            Event::Forget(object) => self.forget(state, object),
            Event::Delete(object) => {
                self.delete_send(state, object)?;
                self.delete_lands(state, object)?;
                self.forget(state, object)
            }
            Event::SessionRemove(session) => session_remove(state, session),
            Event::Damage(digest) => damage(&mut state.rows[digest]),
            Event::Mend(digest) => {
                let row = &mut state.rows[digest];
                let is_damaged = row.state == RowState::Damaged;
                row.state = RowState::Live;
                is_damaged.then_some(())
            }
        }
    }

    pub fn put_send(&self, state: &mut State, object: usize) {
        state.objects[object].puts = self.copies;
        if !self.delays {
            let _ = self.put_lands(state, object);
        }
    }

    fn put_lands(&self, state: &mut State, object: usize) -> Option<()> {
        let puts = state.objects[object].puts.checked_sub(1)?;
        state.objects[object].puts = puts;
        state.present |= 1 << self.key(state, object);
        Some(())
    }

    fn delete_lands(&self, state: &mut State, object: usize) -> Option<()> {
        let deletes = state.objects[object].deletes.checked_sub(1)?;
        state.present &= !(1 << self.key(state, object));
        state.objects[object].deletes = deletes;
        state.objects[object].seen = 0;
        Some(())
    }

    fn delete_send(&self, state: &mut State, object: usize) -> Option<()> {
        let object = &mut state.objects[object];
        if object.state != ObjectState::Dead {
            return None;
        }
        object.state = ObjectState::Deleting;
        object.deletes = self.copies;
        Some(())
    }

    fn forget(&self, state: &mut State, object: usize) -> Option<()> {
        let object = &mut state.objects[object];
        if object.state != ObjectState::Deleting || object.deletes == self.copies {
            return None;
        }
        object.state = ObjectState::Removed;
        // Whoever names keys by content goes on to need it.
        if !self.has_digest_keys() {
            object.content = 0;
        }
        Some(())
    }
}

fn expire(session: &mut Session) -> Option<()> {
    if session.state != SessionState::Open {
        return None;
    }
    session.state = SessionState::Expired;
    session.start_epoch = 0;
    Some(())
}

fn clear(state: &mut State, session: usize) -> Option<()> {
    let object = &mut state.objects[Config::object_of(session)];
    let is_expired = state.sessions[session].state == SessionState::Expired;
    if !is_expired || object.state != ObjectState::Intent {
        return None;
    }
    object.state = ObjectState::Dead;
    Some(())
}

fn session_remove(state: &mut State, session: usize) -> Option<()> {
    let is_expired = state.sessions[session].state == SessionState::Expired;
    if !is_expired || state.objects[Config::object_of(session)].is_unpublished() {
        return None;
    }
    state.sessions[session] = Session::default();
    Some(())
}

fn damage(row: &mut Row) -> Option<()> {
    if !matches!(row.state, RowState::Live | RowState::Condemned) {
        return None;
    }
    row.state = RowState::Damaged;
    Some(())
}
