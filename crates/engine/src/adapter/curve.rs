//! An adapter's weight over the steps.

use std::f64::consts::PI;

/// How a weight goes from one keyframe to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Fade {
    /// It stays, and jumps at the next.
    Hold,
    /// In a straight line.
    #[default]
    Linear,
    /// Slowly at both ends: half a wave of the cosine.
    Cosine,
}

/// What the weight is multiplied by at one place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keyframe {
    /// 0 is the first step, 1 the last.
    pub at: f64,
    /// Of the adapter's weight.
    pub factor: f64,
    /// To the next keyframe.
    pub fade: Fade,
}

/// What an adapter's weight for the UNet is multiplied by, step by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve(Vec<Keyframe>);

impl Curve {
    /// A curve through keyframes, in any order. Before the first and behind the last it is level; without
    /// any it is 1.
    #[must_use]
    pub fn new(mut keyframes: Vec<Keyframe>) -> Curve {
        keyframes.sort_by(|a, b| a.at.total_cmp(&b.at));
        Curve(keyframes)
    }

    /// 1 from the step `start` to the step `stop`, both included and counted from 1; 0 at the others.
    #[must_use]
    pub fn between(start: Option<u32>, stop: Option<u32>, steps: u32) -> Curve {
        let hold = |at, factor| Keyframe { at, factor, fade: Fade::Hold };
        let mut keyframes = vec![hold(0.0, f64::from(start.is_none_or(|start| start <= 1)))];
        if let Some(start) = start.filter(|start| *start > 1) {
            keyframes.push(hold(position(start, steps), 1.0));
        }
        if let Some(stop) = stop.filter(|stop| *stop < steps) {
            keyframes.push(hold(position(stop + 1, steps), 0.0));
        }
        Curve(keyframes)
    }

    /// Its keyframes, in order.
    #[must_use]
    pub fn keyframes(&self) -> &[Keyframe] {
        &self.0
    }

    /// Whether it is the same everywhere.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].factor == pair[1].factor)
    }

    /// The factor at a [`position`].
    #[must_use]
    pub fn at(&self, position: f64) -> f64 {
        let behind = self.0.partition_point(|keyframe| keyframe.at <= position);
        let (before, after) = match (behind.checked_sub(1), self.0.get(behind)) {
            (None, None) => return 1.0,
            (None, Some(first)) => return first.factor,
            (Some(before), None) => return self.0[before].factor,
            (Some(before), Some(after)) => (self.0[before], after),
        };
        let way = (position - before.at) / (after.at - before.at);
        let share = match before.fade {
            Fade::Hold => 0.0,
            Fade::Linear => way,
            Fade::Cosine => (1.0 - (PI * way).cos()) / 2.0,
        };
        before.factor + (after.factor - before.factor) * share
    }

    /// Whether every factor is a number.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|keyframe| keyframe.at.is_finite() && keyframe.factor.is_finite())
    }
}

/// Where a step stands on a curve, counted from 1: the first at 0, the last at 1.
#[must_use]
pub fn position(step: u32, steps: u32) -> f64 {
    f64::from(step.saturating_sub(1)) / f64::from(steps.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_met_and_joined() {
        let keyframe = |at, factor, fade| Keyframe { at, factor, fade };
        let curve = Curve::new(vec![
            keyframe(0.75, 0.5, Fade::Hold),
            keyframe(0.25, 0.0, Fade::Linear),
            keyframe(0.5, 1.0, Fade::Cosine),
            keyframe(1.0, 2.0, Fade::Linear),
        ]);
        let expected = [
            (0.0, 0.0),
            (0.25, 0.0),
            (0.375, 0.5),
            (0.5, 1.0),
            (0.625, 0.75),
            (0.75, 0.5),
            (0.99, 0.5),
            (1.0, 2.0),
        ];
        for (at, factor) in expected {
            assert!((curve.at(at) - factor).abs() < 1e-12, "{at}: {}", curve.at(at));
        }
        // A quarter of the way, a cosine lags behind a line.
        assert!(curve.at(0.5625) > 0.875);
        assert_eq!(Curve::default().at(0.3), 1.0);
        let twice =
            |a, b| Curve::new(vec![keyframe(0.2, a, Fade::Hold), keyframe(1.0, b, Fade::Linear)]);
        assert!(
            Curve::default().is_level()
                && twice(0.5, 0.5).is_level()
                && !twice(0.5, 0.6).is_level()
        );
    }

    #[test]
    fn steps_are_counted_from_one() {
        let factors = |start, stop, steps: u32| -> Vec<f64> {
            let curve = Curve::between(start, stop, steps);
            (1..=steps).map(|step| curve.at(position(step, steps))).collect()
        };
        assert_eq!(factors(Some(3), Some(4), 6), [0., 0., 1., 1., 0., 0.]);
        assert_eq!(factors(None, Some(1), 3), [1., 0., 0.]);
        assert_eq!(factors(Some(2), None, 3), [0., 1., 1.]);
        assert_eq!(factors(None, Some(9), 3), [1.0; 3]);
        assert_eq!(factors(Some(9), None, 3), [0.0; 3]);
        assert_eq!(factors(None, None, 1), [1.0]);
        // Every number of steps meets its own positions exactly.
        for steps in 2..120 {
            for start in 2..=steps {
                let active =
                    factors(Some(start), None, steps).iter().filter(|f| **f == 1.0).count();
                assert_eq!(active as u32, steps - start + 1, "{start} of {steps}");
            }
        }
    }
}
