//! Live: a frame for every movement of the hand.
//!
//! A frame is no job: it has no row, no file and no place in the gallery. Only the newest wish is kept,
//! and a new one cancels the frame that is being made. Jobs go first; Live waits for them and says so. Where
//! there are several workers, the first is Live's as long as the hand moves, and jobs are for the others.

use serde::Serialize;
use ts_rs::TS;

use crate::{Failure, GenerationParams};

/// What Live is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, TS)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// Nothing is wanted.
    #[default]
    Off,
    /// A job is running.
    Waiting,
    /// A frame is being made.
    Rendering,
    /// The newest wish is on the screen.
    Shown,
    /// See the error.
    Failed,
}

/// The state of Live.
#[derive(Debug, Clone, Default, PartialEq, Serialize, TS)]
pub struct Live {
    /// What it is doing.
    pub state: LiveState,
    /// Of `live/0`; `null` before the first frame.
    pub revision: Option<u32>,
    /// The wish that the shown frame answers.
    pub wish: u32,
    /// Whether the shown frame is the full recipe, not one with fewer steps.
    pub full: bool,
    /// From wish to frame.
    pub seconds: Option<f64>,
    /// Why Live waits: a whole sentence.
    pub reason: Option<String>,
    /// Why there is no frame.
    pub error: Option<Failure>,
}

/// A frame that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) params: GenerationParams,
    pub(crate) number: u32,
    /// The hand is moving: few steps will do.
    pub(crate) moving: bool,
    pub(crate) made: std::time::Instant,
}

/// How long a frame may take while the hand moves, in seconds, sampling alone.
const MOVING_SECONDS: f64 = 0.2;

/// The fewest steps that show what a weight does.
const FEWEST_STEPS: u32 = 3;

/// Steps of a frame while the hand moves: as many as fit, at what a step took the last time.
pub(crate) fn moving_steps(full: u32, step_seconds: Option<f64>) -> u32 {
    let fitting = step_seconds.map_or(FEWEST_STEPS, |step| (MOVING_SECONDS / step) as u32);
    fitting.clamp(FEWEST_STEPS.min(full), full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moving_hand_gets_as_many_steps_as_fit() {
        assert_eq!(moving_steps(20, None), 3);
        assert_eq!(moving_steps(20, Some(0.04)), 5);
        assert_eq!(moving_steps(20, Some(10.0)), 3);
        assert_eq!(moving_steps(20, Some(1e-9)), 20);
        assert_eq!(moving_steps(2, Some(10.0)), 2);
    }
}
