//! The driver: whether it is there, which cards it knows, and what it says when it refuses.

use std::{
    ffi::{CStr, c_char, c_int},
    panic::catch_unwind,
    ptr,
};

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute, CUresult};

use crate::{CardInfo, Error, Result};

/// The oldest driver that understands the kernels: they are compiled by the compiler of CUDA 13.0.
const OLDEST_DRIVER: i32 = 13_000;
/// The driver's own number for that version.
const OLDEST_DRIVER_NAME: &str = "580";
/// The oldest cards: bf16 and asynchronous copies come with Ampere.
const OLDEST_CARD: (u32, u32) = (8, 0);

/// The cards, or why there are none: a clause.
pub(super) type Listing = Result<Vec<CardInfo>, String>;

/// Lists the cards. Never fails in another way, and never panics.
pub(super) fn list() -> Listing {
    // cudarc panics where a library lacks a function that it looks for.
    catch_unwind(look).unwrap_or_else(|_| {
        Err("the NVIDIA driver lacks what this program needs; install its newest version".into())
    })
}

fn look() -> Listing {
    // SAFETY: Loads the driver's library, whose constructors are sound to run.
    if !unsafe { sys::is_culib_present() } {
        return Err("there is no NVIDIA driver".into());
    }
    let mut version: c_int = 0;
    // SAFETY: Writes one number; allowed before `cuInit`.
    let told = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if told != CUresult::CUDA_SUCCESS {
        return Err(format!("the NVIDIA driver does not tell its version: {}", words(told)));
    }
    // SAFETY: Needs nothing.
    let begun = unsafe { sys::cuInit(0) };
    if begun == CUresult::CUDA_ERROR_NO_DEVICE {
        return Err("the NVIDIA driver finds no card".into());
    }
    if begun != CUresult::CUDA_SUCCESS {
        return Err(format!("the NVIDIA driver does not start: {}", words(begun)));
    }
    let mut count: c_int = 0;
    // SAFETY: Writes one number; the driver has been started.
    let counted = unsafe { sys::cuDeviceGetCount(&raw mut count) };
    if counted != CUresult::CUDA_SUCCESS {
        return Err(format!("the NVIDIA driver does not count its cards: {}", words(counted)));
    }
    if count == 0 {
        return Err("the NVIDIA driver finds no card".into());
    }
    Ok((0..count).map(|index| describe(index, version)).collect())
}

fn describe(index: c_int, version: i32) -> CardInfo {
    let number = usize::try_from(index).unwrap_or_default();
    let driver = version_name(version);
    match ask(index) {
        Ok((name, memory_bytes, capability)) => {
            let unusable = objection(version, &name, capability);
            CardInfo { index: number, name, memory_bytes, driver, capability, unusable }
        }
        Err(error) => CardInfo {
            index: number,
            name: format!("NVIDIA card {index}"),
            memory_bytes: 0,
            driver,
            capability: (0, 0),
            unusable: Some(format!("the driver does not describe it: {}", words(error))),
        },
    }
}

fn ask(index: c_int) -> Result<(String, u64, (u32, u32)), CUresult> {
    let device = device(index)?;
    let mut name = [0_u8; 256];
    // SAFETY: Writes at most the length that it is told, with a zero at the end.
    succeed(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), 256, device) })?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
    let mut memory = 0_usize;
    // SAFETY: Writes one number.
    succeed(unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) })?;
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok((name, memory as u64, (major, minor)))
}

/// The driver's handle of a card.
pub(super) fn device(index: c_int) -> Result<CUdevice, CUresult> {
    let mut device: CUdevice = 0;
    // SAFETY: Writes one handle; a number that is none's is refused.
    succeed(unsafe { sys::cuDeviceGet(&raw mut device, index) })?;
    Ok(device)
}

/// A property of a card.
pub(super) fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32, CUresult> {
    let mut value: c_int = 0;
    // SAFETY: Writes one number; the device is one that the driver gave.
    succeed(unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
    Ok(u32::try_from(value).unwrap_or_default())
}

fn succeed(result: CUresult) -> Result<(), CUresult> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(result) }
}

/// Why a card cannot be used, if it cannot.
fn objection(version: i32, name: &str, capability: (u32, u32)) -> Option<String> {
    if version < OLDEST_DRIVER {
        let found = version_name(version);
        return Some(format!(
            "the driver is for CUDA {found}; install version {OLDEST_DRIVER_NAME} or newer"
        ));
    }
    if capability < OLDEST_CARD {
        let (major, minor) = capability;
        return Some(format!(
            "the {name} is too old: its compute capability is {major}.{minor}, and 8.0 (GeForce RTX 30, A100) \
             is the least"
        ));
    }
    None
}

/// 13000 is "13.0".
fn version_name(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What the driver says about an error, with its name to look for.
pub(super) fn words(error: CUresult) -> String {
    let mut said: *const c_char = ptr::null();
    // SAFETY: Writes the address of a text that is there as long as the library, or zero.
    let told = unsafe { sys::cuGetErrorString(error, &raw mut said) };
    if told != CUresult::CUDA_SUCCESS || said.is_null() {
        return format!("{error:?}");
    }
    // SAFETY: The driver's text ends with a zero and never changes.
    let said = unsafe { CStr::from_ptr(said) }.to_string_lossy();
    format!("{said} ({error:?})")
}

/// Turns the driver's answer into a result.
pub(super) fn check(result: CUresult, doing: impl FnOnce() -> String) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        // The pool says how much it asked for; elsewhere the driver does not tell.
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(Error::OutOfMemory { wanted: 0 }),
        error if is_final(error) => Err(Error::Unusable(format!(
            "the card stopped at an earlier operation and can no longer be used: {}; start Impasto again",
            words(error)
        ))),
        error => Err(Error::Failed { doing: doing(), reason: words(error) }),
    }
}

/// Whether an error leaves a card on which nothing works until the program ends: the driver then gives the
/// same answer to every call.
fn is_final(error: CUresult) -> bool {
    matches!(
        error,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drivers_and_old_cards_are_told() {
        let card = "NVIDIA A100-SXM4-80GB";
        assert_eq!(objection(13_000, card, (8, 0)), None);
        assert_eq!(objection(13_020, "NVIDIA GeForce RTX 5090", (12, 0)), None);
        assert_eq!(
            objection(12_040, card, (8, 0)).as_deref(),
            Some("the driver is for CUDA 12.4; install version 580 or newer")
        );
        let told = objection(13_000, "NVIDIA GeForce RTX 2080", (7, 5)).expect("it is too old");
        assert!(told.contains("RTX 2080") && told.contains("7.5"), "{told}");
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version_name(12_040), "12.4");
        assert_eq!(version_name(13_000), "13.0");
        assert_eq!(version_name(11_080), "11.8");
    }
}
