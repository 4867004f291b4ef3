//! Devices: what there is to compute on, and what keeps one from being used.

use std::{fmt, iter, str::FromStr};

use crate::{Error, Result, ops};

/// Where the networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// The processor.
    Cpu,
    /// An NVIDIA card, by its number.
    Cuda(usize),
    /// A card that is not there: its kernels, run by the processor one thread after the other. For tests.
    #[cfg(feature = "emulated")]
    Emulated {
        /// Which request for memory is refused, counted from when it is opened.
        refuses: Option<u32>,
        /// All of its memory in bytes, where it is to be little.
        memory: Option<u64>,
    },
}

impl DeviceId {
    /// The first card among the [`devices`] that can be used; where there is none, the processor.
    #[must_use]
    pub fn best_of(devices: &[DeviceInfo]) -> DeviceId {
        let mut cards = devices.iter().filter(|device| device.id != DeviceId::Cpu);
        cards.find(|card| card.unusable.is_none()).map_or(DeviceId::Cpu, |card| card.id)
    }

    /// That of this machine.
    #[must_use]
    pub fn best() -> DeviceId {
        DeviceId::best_of(&devices())
    }
}

/// Why none of the [`devices`] is a card that can be used, in a program that was built for them: a clause.
#[must_use]
pub fn why_no_card(devices: &[DeviceInfo]) -> Option<String> {
    if !cfg!(feature = "cuda") || DeviceId::best_of(devices) != DeviceId::Cpu {
        return None;
    }
    devices.iter().find_map(|device| device.unusable.clone())
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Cpu => f.write_str("cpu"),
            DeviceId::Cuda(index) => write!(f, "cuda:{index}"),
            #[cfg(feature = "emulated")]
            DeviceId::Emulated { .. } => f.write_str("emulated"),
        }
    }
}

impl FromStr for DeviceId {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceId, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(DeviceId::Cpu),
            None if text == "cuda" => Ok(DeviceId::Cuda(0)),
            Some(("cuda", index)) => index
                .parse()
                .map(DeviceId::Cuda)
                .map_err(|_| format!("`{index}` is not the number of a card")),
            _ => Err(format!("`{text}` is not a device: choose cpu, cuda or cuda:N")),
        }
    }
}

/// What the person is shown of a device.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// How to choose it.
    pub id: DeviceId,
    /// The maker's name for it.
    pub name: String,
    /// Its memory, where that is known.
    pub memory_bytes: Option<u64>,
    /// Its driver and the driver's version, if it has one.
    pub driver: Option<String>,
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
}

/// Every device that the program knows of, whether it can be used or not.
#[must_use]
pub fn devices() -> Vec<DeviceInfo> {
    let processor = DeviceInfo {
        id: DeviceId::Cpu,
        name: processor_name().unwrap_or_else(|| "processor".into()),
        memory_bytes: memory(),
        driver: None,
        unusable: None,
    };
    let cards = cuda::Card::list();
    let absence = if cards.is_empty() { cuda::Card::absence() } else { None };
    let cards = cards.into_iter().map(|card| DeviceInfo {
        id: DeviceId::Cuda(card.index),
        name: card.name,
        memory_bytes: Some(card.memory_bytes),
        driver: Some(format!("CUDA {}", card.driver)),
        unusable: card.unusable,
    });
    let absent = absence.map(|reason| DeviceInfo {
        id: DeviceId::Cuda(0),
        name: "NVIDIA card".into(),
        memory_bytes: None,
        driver: None,
        unusable: Some(reason),
    });
    iter::once(processor).chain(cards).chain(absent).collect()
}

/// Begins to use a device.
///
/// # Errors
/// [`Error::Device`] with the reason if it cannot be used.
pub(crate) fn open(device: DeviceId) -> Result<ops::Device> {
    match device {
        DeviceId::Cpu => Ok(ops::Device::Host),
        #[cfg(feature = "emulated")]
        DeviceId::Emulated { refuses, memory } => {
            Ok(ops::Device::Card(cuda::Card::emulated_short(refuses, memory)))
        }
        DeviceId::Cuda(index) => cuda::Card::open(index).map(ops::Device::Card).map_err(|error| {
            let reason = format!("{error}; use the device `cpu`");
            Error::Device { device: device.to_string(), reason }
        }),
    }
}

/// The machine's memory in bytes, where the system tells.
pub(crate) fn memory() -> Option<u64> {
    memory_line("MemTotal:")
}

/// Bytes that can still be taken without pushing other programs out of memory, where the system
/// tells.
pub(crate) fn available_memory() -> Option<u64> {
    memory_line("MemAvailable:")
}

/// A line of Linux's `/proc/meminfo`, in bytes.
fn memory_line(name: &str) -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn processor_name() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
