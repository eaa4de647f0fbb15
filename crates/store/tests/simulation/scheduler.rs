//! Who goes on, and when: one thread, and one step at a time.
//!
//! Everything that the store waits for asks here: the database and the backend for a turn, the clock for a time. When
//! nothing can run any more (the runtime is about to park, and no turn is being used) one of those who wait is let go,
//! drawn by the seed; or time passes, a late message lands, or the driver does something to the servers. What runs
//! between two such moments depends on nothing else, so the same seed gives the same run.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use store::{Schedule, Turn, World};
use tokio::sync::oneshot;

use crate::network::Network;
use crate::random::Rng;

/// When it all begins, in microseconds since 1970.
const BEGIN_US: u64 = 1_800_000_000_000_000;
/// More steps than any run takes: what needs more hangs.
const STEPS_LIMIT: u64 = 60_000;
const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// One life of a server, from its start to its crash.
pub(crate) type Life = usize;

#[derive(Clone)]
pub(crate) struct Sim(Arc<Mutex<State>>);

/// How wild a run is. Rates are of 1000.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mood {
    /// Calls to the backend that do not go well.
    pub(crate) faults: u64,
    /// Steps at which a server crashes.
    pub(crate) crashes: u64,
    /// Steps at which a clock jumps, or much time passes at once.
    pub(crate) jumps: u64,
    /// Waiting tasks that are left waiting for long.
    pub(crate) freezes: u64,
    /// Steps at which something late lands.
    pub(crate) landings: u64,
    /// Steps at which something more begins, while there is more.
    pub(crate) starts: u64,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) mood: Mood,
    pub(crate) network: Network,
    /// What the store calls random.
    secrets: Rng,
    time_us: u64,
    pub(crate) step: u64,
    lives: Vec<LifeState>,
    turns: Vec<Waiting>,
    timers: Vec<Timer>,
    /// Turns that are being used, and whoever wants nobody else to run.
    busy: usize,
    /// Everything goes through at once, and well.
    calm: bool,
    driver: Option<oneshot::Sender<Command>>,
    /// Whether the driver would begin something more.
    more: bool,
    arrivals: u64,
    trace: Vec<String>,
    failure: Option<String>,
}

struct LifeState {
    is_alive: bool,
    /// How wrong its clock is.
    skew_us: i64,
}

struct Waiting {
    life: Life,
    what: String,
    arrival: u64,
    not_before: u64,
    waker: Waker,
    /// It is its turn, if it only takes it.
    is_offered: bool,
    /// It did not take its turn: whoever asked for it does something else just now, and will ask again.
    is_away: bool,
}

/// A place in the line, until it is dropped.
struct Place {
    sim: Sim,
    arrival: u64,
}

struct Timer {
    life: Life,
    due_us: u64,
    arrival: u64,
    go: oneshot::Sender<()>,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Start,
    Crash,
    Cancel,
    Audit,
    /// Nothing can go on, or something has failed.
    Stop,
}

/// Nobody else runs while this is held.
pub(crate) struct Hold(Sim);

enum Choice {
    Turn,
    Timer,
    Late,
    Jump,
    Command(Command),
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let secrets = Rng::new(rng.next());
        let mood = mood(&mut rng);
        Self(Arc::new(Mutex::new(State {
            rng,
            mood,
            network: Network::default(),
            secrets,
            time_us: 0,
            step: 0,
            lives: Vec::new(),
            turns: Vec::new(),
            timers: Vec::new(),
            busy: 0,
            calm: false,
            driver: None,
            more: true,
            arrivals: 0,
            trace: Vec::new(),
            failure: None,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world of a new life.
    pub(crate) fn live(&self) -> (Life, World) {
        let mut state = self.lock();
        let life = state.lives.len();
        let skew_us = if state.mood.jumps > 0 { state.skew() } else { 0 };
        state.lives.push(LifeState {
            is_alive: true,
            skew_us,
        });
        drop(state);
        let [clock, random, turns, timers, time] = [(); 5].map(|()| self.clone());
        let world = World::new(
            move || clock.lock().now_us(life),
            move || random.lock().secrets.bytes(),
        );
        let schedule = Schedule {
            turn: Box::new(move |what| turns.turn(life, what)),
            sleep: Box::new(move |time| timers.sleep(life, *time)),
            uptime: Box::new(move || Duration::from_micros(time.lock().time_us)),
        };
        (life, world.scheduled(schedule))
    }

    /// A life ends: whatever of it still waits waits for ever.
    pub(crate) fn kill(&self, life: Life) {
        let mut state = self.lock();
        state.lives[life].is_alive = false;
        state.tell(&format!("server life {life} crashes"));
        let of_life = state.turns.iter().filter(|one| one.life == life);
        let at: Vec<String> = of_life.map(|one| format!("  before {}", one.what)).collect();
        for line in &at {
            state.tell(line);
        }
        state.tidy();
    }

    pub(crate) fn turn(&self, life: Life, what: &str) -> BoxFuture<'static, Turn> {
        let sim = self.clone();
        let what = what.to_owned();
        async move {
            let waker = std::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
            let Some(place) = sim.queue(life, what, waker) else {
                return Turn::new(());
            };
            std::future::poll_fn(|context| place.poll(context)).await
        }
        .boxed()
    }

    fn queue(&self, life: Life, what: String, waker: Waker) -> Option<Place> {
        let mut state = self.lock();
        if state.calm {
            return None;
        }
        let freeze = state.mood.freezes;
        let frozen = if state.rng.chance(freeze) {
            state.freeze()
        } else {
            0
        };
        let arrival = state.arrive();
        let waiting = Waiting {
            life,
            what,
            arrival,
            not_before: state.step + frozen,
            waker,
            is_offered: false,
            is_away: false,
        };
        if state.lives[life].is_alive {
            state.turns.push(waiting);
        }
        let sim = self.clone();
        Some(Place { sim, arrival })
    }

    pub(crate) fn sleep(&self, life: Life, time: Duration) -> BoxFuture<'static, ()> {
        let sim = self.clone();
        async move {
            if time.is_zero() {
                return;
            }
            let (go, done) = oneshot::channel();
            {
                let mut state = sim.lock();
                let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let timer = Timer {
                    life,
                    due_us: state.time_us.saturating_add(micros),
                    arrival: state.arrive(),
                    go,
                };
                if state.lives[life].is_alive {
                    state.timers.push(timer);
                }
            }
            if done.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }

    /// Waits until it is the driver's turn.
    pub(crate) async fn command(&self, more: bool) -> (Command, Hold) {
        let (go, command) = oneshot::channel();
        self.wait(go, more);
        let command = command.await.unwrap_or(Command::Stop);
        // It was counted as busy when it was chosen.
        (command, Hold(self.clone()))
    }

    fn wait(&self, driver: oneshot::Sender<Command>, more: bool) {
        let mut state = self.lock();
        state.driver = Some(driver);
        state.more = more;
    }

    /// Nobody else runs until it is dropped, and whatever is asked for goes through at once, and well.
    pub(crate) fn hold(&self) -> Hold {
        let mut state = self.lock();
        state.busy += 1;
        state.calm = true;
        drop(state);
        Hold(self.clone())
    }

    /// To be called when nothing can run any more.
    pub(crate) fn park(&self) {
        while self.go_on() {}
    }

    /// One step; true where nobody was woken by it, so that there has to be another.
    fn go_on(&self) -> bool {
        let mut state = self.lock();
        if state.busy > 0 {
            return false;
        }
        state.tidy();
        let Some(choice) = state.choose() else {
            return false;
        };
        state.step += 1;
        match choice {
            Choice::Turn => {
                state.time_us += state.rng.below(200_000);
                let at = state.draw_turn();
                let waiting = &mut state.turns[at];
                waiting.is_offered = true;
                let waker = waiting.waker.clone();
                let step = format!("life {} {}", waiting.life, waiting.what);
                state.tell(&step);
                drop(state);
                waker.wake();
                false
            }
            Choice::Timer => {
                let timer = state.draw_timer();
                state.time_us = state.time_us.max(timer.due_us);
                state.tell(&format!("a timer of life {} fires", timer.life));
                timer.go.send(()).is_err()
            }
            Choice::Late => {
                let State { rng, network, .. } = &mut *state;
                let landed = network.land(rng);
                state.tell(&landed.what);
                landed.answer.is_none_or(|(go, answer)| go.send(answer).is_err())
            }
            Choice::Jump => {
                state.jump();
                true
            }
            Choice::Command(command) => {
                state.tell(&format!("{command:?}"));
                state.busy += 1;
                state.calm = true;
                state
                    .driver
                    .take()
                    .is_none_or(|driver| driver.send(command).is_err())
            }
        }
    }

    /// The run has failed: the first reason counts.
    pub(crate) fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut state = self.lock();
        state.tell(&format!("FAILURE: {reason}"));
        state.failure.get_or_insert(reason);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// From now on nothing goes wrong, clocks are right, and what was late has come.
    pub(crate) fn settle(&self) {
        let mut state = self.lock();
        state.mood = Mood {
            faults: 0,
            crashes: 0,
            jumps: 0,
            freezes: 0,
            landings: 0,
            starts: 0,
        };
        let mut answers = Vec::new();
        while state.network.is_late() {
            let State { rng, network, .. } = &mut *state;
            let landed = network.land(rng);
            state.tell(&landed.what);
            answers.extend(landed.answer);
        }
        for life in &mut state.lives {
            life.skew_us = 0;
        }
        drop(state);
        for (go, answer) in answers {
            drop(go.send(answer));
        }
    }

    pub(crate) fn pass(&self, days: u64) {
        self.lock().time_us += days * DAY_US;
    }
}

impl Place {
    fn poll(&self, context: &Context<'_>) -> Poll<Turn> {
        let mut state = self.sim.lock();
        let place = state.turns.iter().position(|one| one.arrival == self.arrival);
        let Some(at) = place else { return Poll::Pending };
        if state.turns[at].is_offered {
            state.turns.remove(at);
            state.busy += 1;
            return Poll::Ready(Turn::new(Hold(self.sim.clone())));
        }
        let waiting = &mut state.turns[at];
        waiting.is_away = false;
        waiting.waker.clone_from(context.waker());
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sim.lock().turns.retain(|one| one.arrival != self.arrival);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.busy -= 1;
        if state.busy == 0 {
            state.calm = false;
        }
    }
}

impl State {
    pub(crate) fn tell(&mut self, what: &str) {
        let mut line = String::with_capacity(what.len() + 16);
        let _ = write!(line, "{} {}ms {what}", self.step, self.time_us / 1000);
        self.trace.push(line);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm
    }

    fn now_us(&self, life: Life) -> i64 {
        (BEGIN_US + self.time_us).cast_signed() + self.lives[life].skew_us
    }

    fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// For how many steps: a few, or until nothing else is left to do.
    fn freeze(&mut self) -> u64 {
        let most = [30, 300, 5000][self.rng.index(3)];
        self.rng.below(most)
    }

    fn skew(&mut self) -> i64 {
        let most = [0, 1_000_000, 600_000_000, DAY_US][self.rng.index(4)];
        self.rng.below(2 * most + 1).cast_signed() - most.cast_signed()
    }

    /// Forgets what nobody waits for any more, and turns that nobody took.
    fn tidy(&mut self) {
        let lives = &self.lives;
        self.turns.retain(|one| lives[one.life].is_alive);
        self.timers
            .retain(|one| lives[one.life].is_alive && !one.go.is_closed());
        for one in self.turns.iter_mut().filter(|one| one.is_offered) {
            one.is_offered = false;
            one.is_away = true;
        }
    }

    fn choose(&mut self) -> Option<Choice> {
        self.driver.as_ref()?;
        if self.failure.is_some() {
            return Some(Choice::Command(Command::Stop));
        }
        if self.step > STEPS_LIMIT {
            self.failure = Some("it does not come to an end".into());
            return Some(Choice::Command(Command::Stop));
        }
        let has = |is: bool, weight: u64| if is { weight } else { 0 };
        let (turns, timers, late) = (
            self.turns.iter().any(|one| !one.is_away),
            !self.timers.is_empty(),
            self.network.is_late(),
        );
        let has_work = turns || timers || late;
        let weights = [
            (has(turns, 1000), Choice::Turn),
            (has(timers, if turns { 15 } else { 300 }), Choice::Timer),
            (has(late, self.mood.landings), Choice::Late),
            (has(has_work, self.mood.jumps), Choice::Jump),
            (has(self.more, self.mood.starts), Choice::Command(Command::Start)),
            (has(has_work, self.mood.crashes), Choice::Command(Command::Crash)),
            (has(has_work, self.mood.crashes), Choice::Command(Command::Cancel)),
            (has(has_work, 2), Choice::Command(Command::Audit)),
        ];
        let sum: u64 = weights.iter().map(|(weight, _)| weight).sum();
        if !has_work && !self.more {
            return Some(Choice::Command(Command::Stop));
        }
        let mut at = self.rng.below(sum);
        for (weight, choice) in weights {
            if at < weight {
                return Some(choice);
            }
            at -= weight;
        }
        None
    }

    /// One of those who wait, whoever came first.
    fn draw_turn(&mut self) -> usize {
        self.turns.sort_by(|one, other| {
            (one.life, &one.what, one.arrival).cmp(&(other.life, &other.what, other.arrival))
        });
        let there: Vec<usize> = (0..self.turns.len())
            .filter(|at| !self.turns[*at].is_away)
            .collect();
        let is_ready = |at: &usize| self.turns[*at].not_before <= self.step;
        let ready: Vec<usize> = there.iter().copied().filter(is_ready).collect();
        let some = if ready.is_empty() { there } else { ready };
        some[self.rng.index(some.len())]
    }

    /// The next timer; those of a server that is slow come later.
    fn draw_timer(&mut self) -> Timer {
        self.timers.sort_by_key(|one| (one.due_us, one.life, one.arrival));
        self.timers.remove(0)
    }

    fn jump(&mut self) {
        if self.rng.chance(500) {
            let most = [60, 600, 7200, 100_000][self.rng.index(4)] * 1_000_000;
            let by = self.rng.below(most);
            self.time_us += by;
            self.tell(&format!("{} seconds pass", by / 1_000_000));
            return;
        }
        let life = self.rng.index(self.lives.len());
        let skew_us = self.skew();
        self.lives[life].skew_us = skew_us;
        self.tell(&format!("the clock of life {life} is {skew_us} us wrong"));
    }
}

fn mood(rng: &mut Rng) -> Mood {
    Mood {
        faults: [0, 10, 40, 120][rng.index(4)],
        crashes: [0, 2, 8, 20][rng.index(4)],
        jumps: [0, 2, 10][rng.index(3)],
        freezes: [0, 50, 200][rng.index(3)],
        landings: [60, 10, 3][rng.index(3)],
        starts: [50, 120, 300][rng.index(3)],
    }
}
