//! Devices: what there is to compute on, and what keeps one from being used.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// Where the networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// The processor.
    Cpu,
    /// An NVIDIA card, by its number.
    Cuda(usize),
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Cpu => f.write_str("cpu"),
            DeviceId::Cuda(index) => write!(f, "cuda:{index}"),
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
    /// Why it cannot be used, if it cannot.
    pub unusable: Option<String>,
}

const WITHOUT_CUDA: &str = "this program was built without CUDA; use the device `cpu`";

/// Every device that the program knows of, whether it can be used or not.
#[must_use]
pub fn devices() -> Vec<DeviceInfo> {
    vec![
        DeviceInfo {
            id: DeviceId::Cpu,
            name: processor_name().unwrap_or_else(|| "processor".into()),
            memory_bytes: memory(),
            unusable: None,
        },
        DeviceInfo {
            id: DeviceId::Cuda(0),
            name: "NVIDIA card".into(),
            memory_bytes: None,
            unusable: Some(WITHOUT_CUDA.into()),
        },
    ]
}

/// Fails with the reason if a device cannot be used.
pub(crate) fn check(device: DeviceId) -> Result<()> {
    match device {
        DeviceId::Cpu => Ok(()),
        DeviceId::Cuda(_) => {
            Err(Error::Device { device: device.to_string(), reason: WITHOUT_CUDA.into() })
        }
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
