//! The tables that a window builds its lists from.

use engine::{
    DeviceInfo,
    acceleration::METHODS,
    sample::{SAMPLERS, schedule::SCHEDULES},
};
use serde::Serialize;
use ts_rs::TS;

use crate::{settings::AUTO, workers::devices_for};

/// What there is to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Catalog {
    /// In the order in which they are shown.
    pub samplers: Vec<Choice>,
    /// In the order in which they are shown.
    pub schedules: Vec<Choice>,
    /// Methods by which models and adapters were made to need few steps.
    pub accelerations: Vec<Choice>,
    /// What this machine could compute on.
    pub devices: Vec<Device>,
    /// Those that compute where the person does not choose, each a picture of its own.
    pub best_devices: Vec<String>,
    /// Of a picture, in pixels.
    pub max_side: u32,
    /// Of this program.
    pub version: String,
    /// Of this machine.
    pub cores: u32,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Choice {
    /// For files.
    pub id: String,
    /// For a person.
    pub name: String,
}

/// Something to compute on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct Device {
    /// For files: "cpu".
    pub id: String,
    /// For a person.
    pub name: String,
    /// Its memory.
    pub memory_bytes: Option<u64>,
    /// Its driver, if it has one: "CUDA 13.0".
    pub driver: Option<String>,
    /// Why it cannot be used.
    pub unusable: Option<String>,
}

impl Catalog {
    /// Of this program, on a machine with these devices.
    #[must_use]
    pub fn with(devices: &[DeviceInfo]) -> Catalog {
        let best_devices = devices_for(AUTO, devices);
        let choice = |id: &str, name: &str| Choice { id: id.to_owned(), name: name.to_owned() };
        Catalog {
            samplers: SAMPLERS.iter().map(|record| choice(record.id, record.name)).collect(),
            schedules: SCHEDULES.iter().map(|record| choice(record.id, record.name)).collect(),
            accelerations: METHODS.iter().map(|record| choice(record.id, record.name)).collect(),
            devices: devices
                .iter()
                .map(|device| Device {
                    id: device.id.to_string(),
                    name: device.name.clone(),
                    memory_bytes: device.memory_bytes,
                    driver: device.driver.clone(),
                    unusable: device.unusable.as_deref().map(crate::error::sentence),
                })
                .collect(),
            best_devices: best_devices.iter().map(ToString::to_string).collect(),
            max_side: engine::MAX_SIDE,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        }
    }
}
