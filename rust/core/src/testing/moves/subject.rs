//! The daemon that is simulated: user code of any sort, behind a trait.

use std::error::Error;
use std::rc::Rc;

use crate::host::Few;
use crate::id::Origin;
use crate::mix;
use crate::route::Route;
use crate::time::UnixMs;

/// Why user code failed.
pub type Fault = Box<dyn Error + Send + Sync>;

/// An event as user code gets it: the same at every try, at every node, and for the daemon that it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Which of all events, from 1, in the order in which they were sent.
    pub number: u64,
    /// Who sent it.
    pub origin: Origin,
    /// Its number at whoever sent it.
    pub sequence: u64,
    /// A number that no other event has.
    pub content: u64,
    /// What is in it.
    pub payload: Rc<[u8]>,
    /// When it was sent, by the wall clock of the simulation.
    pub at: UnixMs,
}

/// What user code emits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The bytes.
    pub payload: Rc<[u8]>,
    /// Where it goes besides the chain.
    pub route: Route,
}

impl AsRef<[u8]> for Emitted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// One instance of a daemon.
pub trait Subject {
    /// What an event does to it, and what it emits.
    ///
    /// # Errors
    /// User code failed: the run ends.
    fn process(&mut self, given: &Given) -> Result<Few<Emitted>, Fault>;

    /// Its state; `None` for one that has none.
    ///
    /// # Errors
    /// User code failed: the run ends.
    fn snapshot(&mut self) -> Result<Option<Rc<[u8]>>, Fault>;

    /// Continues after a state. Called once, on a fresh instance.
    ///
    /// # Errors
    /// User code failed: the run ends.
    fn restore(&mut self, state: &[u8]) -> Result<(), Fault>;
}

/// Makes instances of one daemon, and its events.
pub trait Kind {
    /// A fresh instance.
    ///
    /// # Errors
    /// User code failed: the run ends.
    fn make(&mut self) -> Result<Box<dyn Subject>, Fault>;

    /// What is in event number `number`, from 1.
    ///
    /// # Errors
    /// User code failed: the run ends.
    fn payload(&mut self, number: u64) -> Result<Rc<[u8]>, Fault> {
        Ok(Rc::from(number.to_le_bytes()))
    }

    /// Asked between steps.
    ///
    /// # Errors
    /// The run is to end.
    fn between(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A number that every event changes, and that says how much is emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(u64);

/// Makes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers;

impl Kind for Numbers {
    fn make(&mut self) -> Result<Box<dyn Subject>, Fault> {
        Ok(Box::new(Number(1)))
    }
}

impl Subject for Number {
    fn process(&mut self, given: &Given) -> Result<Few<Emitted>, Fault> {
        self.0 = mix::pair(self.0, given.content);
        let emitted = (0..self.0 % 3).map(|output| Emitted {
            payload: Rc::from(mix::pair(self.0, output).to_le_bytes()),
            route: Route::Chain,
        });
        Ok(emitted.collect())
    }

    fn snapshot(&mut self) -> Result<Option<Rc<[u8]>>, Fault> {
        Ok(Some(Rc::from(self.0.to_le_bytes())))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        self.0 = u64::from_le_bytes(state.try_into()?);
        Ok(())
    }
}
