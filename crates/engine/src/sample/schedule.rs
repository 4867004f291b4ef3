//! Schedules: which sigmas a sampler walks down.

/// What the rest of the program knows of a schedule.
#[derive(Debug)]
pub struct Schedule {
    /// Written into files; never changes once released.
    pub id: &'static str,
    /// Shown to the person.
    pub name: &'static str,
}

/// Every schedule, in the order in which the person sees them.
pub static SCHEDULES: &[&Schedule] = &[];
