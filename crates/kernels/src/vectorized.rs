//! Plain Rust, compiled once for each width of vectors.

/// Defines a function whose body is compiled for AVX-512, AVX2 and the oldest processor, and chosen by
/// [`Isa::current`](crate::Isa::current) when it is called. The compiler never fuses a product and a
/// sum by itself, so all versions give the same bits.
macro_rules! vectorized {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident$(<$T:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
            fn avx512$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                body($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            match $crate::Isa::current() {
                $crate::Isa::Portable => {}
                // SAFETY: `current` is a rung that the processor has.
                $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                _ => return unsafe { avx512($($arg),*) },
            }
            body($($arg),*)
        }
    };
}

pub(crate) use vectorized;
