//! Which instructions the kernels use: a rung of a ladder, chosen once from what the processor has.
//!
//! | rung | processors | products of f32 | products of bf16 |
//! | --- | --- | --- | --- |
//! | [`Amx`](Isa::Amx) | Intel from Sapphire Rapids on | AVX-512 | AMX tiles |
//! | [`Avx512Bf16`](Isa::Avx512Bf16) | AMD from Zen 4 on | AVX-512 | `vdpbf16ps` |
//! | [`Avx512`](Isa::Avx512) | Intel from Skylake-X on | AVX-512 | widened to f32 |
//! | [`Avx2`](Isa::Avx2) | most desktops since 2013 | AVX2 and FMA | widened to f32 |
//! | [`Neon`](Isa::Neon) | ARM of 64 bits | NEON | widened to f32 |
//! | [`Portable`](Isa::Portable) | everything | plain Rust | widened to f32 |
//!
//! The choice is a table, never a timing, so that the same machine always computes the same bits.
//! On Intel processors before AMX `vdpbf16ps` runs at half the rate of f32, so they stay on
//! [`Avx512`](Isa::Avx512). `IMPASTO_ISA` (`amx`, `avx512bf16`, `avx512`, `avx2`, `neon`, `portable`) picks
//! a lower rung, for tests and fair comparisons. NEON was tested in an emulator only, so it is used only
//! where it is asked for.

use std::{fmt, str::FromStr, sync::OnceLock};

/// A rung: which instructions the kernels use. Higher rungs have everything of the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, vectorized by the compiler for the oldest processor of the target.
    Portable,
    /// NEON, of which every ARM processor of 64 bits has all that is used.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with `vdpbf16ps`.
    Avx512Bf16,
    /// AVX-512 with AMX tiles of bf16.
    Amx,
}

impl Isa {
    /// All rungs, the lowest first.
    pub const ALL: [Isa; 6] =
        [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The name that `IMPASTO_ISA` knows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// Whether it multiplies bf16 numbers faster than f32.
    #[must_use]
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx)
    }

    /// Whether this processor can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            _ => x86::available(self),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The rung that was asked for, or the best one, before it has shown that it multiplies rightly:
    /// what that test itself, and all that needs no product, runs on.
    pub(crate) fn untested() -> Isa {
        static UNTESTED: OnceLock<Isa> = OnceLock::new();
        *UNTESTED.get_or_init(|| preferred(std::env::var("IMPASTO_ISA").ok().as_deref()).0)
    }

    /// The rung that is in use: `IMPASTO_ISA` if the processor has it, else the best one.
    #[must_use]
    pub fn current() -> Isa {
        Isa::chosen().isa
    }

    /// What a person should know of how [`current`](Isa::current) was chosen: a rung that was asked for in
    /// vain, or that miscalculates here. Mostly nothing.
    #[must_use]
    pub fn doubts() -> &'static [String] {
        &Isa::chosen().doubts
    }

    fn chosen() -> &'static Choice {
        static CHOSEN: OnceLock<Choice> = OnceLock::new();
        CHOSEN.get_or_init(|| Isa::choose(std::env::var("IMPASTO_ISA").ok().as_deref()))
    }

    /// What [`current`](Isa::current) is chosen by: the rung that was asked for, or the best one, and
    /// one lower for each that miscalculates.
    #[must_use]
    pub fn choose(asked: Option<&str>) -> Choice {
        let (mut isa, doubt) = preferred(asked);
        let mut doubts = Vec::from_iter(doubt);
        while !crate::product::multiplies_rightly(isa) {
            let below =
                Isa::ALL.into_iter().rev().find(|lower| *lower < isa && lower.is_available());
            let below = below.unwrap_or(Isa::Portable);
            doubts.push(format!("{isa} computes a known product wrongly here; {below} is used"));
            if isa == below {
                break;
            }
            isa = below;
        }
        Choice { isa, doubts }
    }
}

/// The rung that was asked for, if there is such a one here, or the best one; and what kept from the
/// former.
fn preferred(asked: Option<&str>) -> (Isa, Option<String>) {
    let best = || {
        let preferred = |isa: &Isa| match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => x86::is_amd(),
            // Not before it has passed the tests on a processor.
            Isa::Neon => false,
            _ => true,
        };
        let mut rungs = Isa::ALL.into_iter().rev();
        rungs.find(|isa| isa.is_available() && preferred(isa)).unwrap_or(Isa::Portable)
    };
    match asked.filter(|asked| !asked.is_empty()).map(str::parse::<Isa>) {
        None => (best(), None),
        Some(Ok(isa)) if isa.is_available() => (isa, None),
        Some(Ok(isa)) => {
            (best(), Some(format!("IMPASTO_ISA={isa}: this processor does not have it")))
        }
        Some(Err(unknown)) => (best(), Some(unknown)),
    }
}

/// A rung, and what was found out on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The rung.
    pub isa: Isa,
    /// What a person should know: a rung that was asked for in vain, or that miscalculates.
    pub doubts: Vec<String>,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Isa, String> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
            format!("IMPASTO_ISA={name}: there is no such rung; there are {}", names.join(", "))
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{__cpuid, __cpuid_count},
        sync::OnceLock,
    };

    use super::Isa;

    pub(super) fn available(isa: Isa) -> bool {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        match isa {
            Isa::Portable => true,
            Isa::Neon => false,
            Isa::Avx2 => avx2,
            Isa::Avx512 => avx512,
            Isa::Avx512Bf16 => bf16,
            Isa::Amx => bf16 && has_amx(),
        }
    }

    pub(super) fn is_amd() -> bool {
        // "AuthenticAMD", in EBX, EDX, ECX.
        let vendor = __cpuid(0);
        (vendor.ebx, vendor.edx, vendor.ecx) == (0x6874_7541, 0x6974_6e65, 0x444d_4163)
    }

    /// Whether the processor has AMX tiles and bf16, and the system lets this process use them.
    /// Linux wants to be asked, since a thread's tiles take 8 KiB in every signal frame.
    fn has_amx() -> bool {
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        *ALLOWED.get_or_init(|| {
            const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
            __cpuid(0).eax >= 7
                && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE
                && saves_tiles()
                && may_use_tiles()
        })
    }

    /// Whether the system saves tile configuration and data on a context switch (XCR0, bits 17, 18).
    fn saves_tiles() -> bool {
        let (low, high): (u32, u32);
        // SAFETY: `xgetbv` of register 0 reads a register. AVX-512 was detected through OSXSAVE before.
        unsafe {
            std::arch::asm!(
                "xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
                options(nomem, nostack, preserves_flags)
            );
        }
        let _ = high;
        low & (0b11 << 17) == 0b11 << 17
    }

    #[cfg(target_os = "linux")]
    fn may_use_tiles() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that asks for a permission; it reads and writes none of our memory.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                out("rcx") _, out("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    /// Elsewhere this was never tried, so it is not used.
    #[cfg(not(target_os = "linux"))]
    fn may_use_tiles() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_is_asked_for_by_name() {
        assert_eq!(Isa::choose(Some("portable")), Choice { isa: Isa::Portable, doubts: vec![] });
        let unknown = Isa::choose(Some("mmx"));
        assert_eq!(unknown.isa, Isa::choose(None).isa);
        assert!(unknown.doubts[0].contains("portable, neon, avx2"));
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
            if isa.is_available() {
                assert_eq!(Isa::choose(Some(isa.name())), Choice { isa, doubts: vec![] });
            }
        }
    }
}
