//! Writes the window's types, `ui/src/lib/ipc/types.ts`, from the ones here.

use std::path::Path;

use fs_err as fs;
use ts_rs::{Config, TS};

use crate::{cards, catalog, error, event, gallery, live, params, queue, settings, sheet, studio};

const FILE: &str = "../../ui/src/lib/ipc/types.ts";

/// One type, with its documentation.
fn declare<T: TS>(config: &Config) -> String {
    let docs = T::docs().unwrap_or_default();
    format!("{docs}export {}\n", T::decl(config))
}

/// Types named in the order in which a reader wants them.
fn all() -> String {
    let config = Config::new().with_large_int("number");
    macro_rules! declare {
        ($($type:ty),* $(,)?) => { [$(declare::<$type>(&config)),*] };
    }
    let types = declare![
        params::FileRef,
        params::AdapterParams,
        params::KeyframeParams,
        params::FadeName,
        params::InitParams,
        params::InitFit,
        params::NoiseParams,
        params::RefinerParams,
        params::SizeParams,
        params::Prediction,
        params::RngName,
        params::PrecisionName,
        params::GenerationParams,
        error::FailureCode,
        error::Failure,
        queue::JobState,
        queue::Job,
        queue::Phase,
        queue::JobProgress,
        sheet::WeightPart,
        sheet::AxisTarget,
        sheet::AxisWish,
        sheet::Reach,
        sheet::Entry,
        sheet::AxisValue,
        sheet::Axis,
        sheet::SheetCell,
        sheet::Sheet,
        sheet::SheetEntry,
        sheet::SheetPlan,
        gallery::GalleryImage,
        gallery::AdapterPatch,
        cards::Problem,
        gallery::GalleryQuery,
        gallery::GalleryCounts,
        gallery::NameCount,
        gallery::Deleted,
        cards::ModelKind,
        cards::ModelCard,
        crate::starter::Suggestion,
        cards::LibraryView,
        cards::LibraryFolder,
        cards::FolderOffer,
        cards::Fit,
        cards::BlockCoverage,
        cards::StackStrength,
        cards::AdapterStrength,
        cards::ModelNote,
        cards::ConvertWish,
        cards::StoredName,
        cards::ConvertPlan,
        cards::DropItem,
        cards::DropKind,
        cards::Dropped,
        cards::InputPicture,
        cards::RecipeOffer,
        studio::TokenCount,
        live::LiveState,
        live::Live,
        settings::Theme,
        settings::Settings,
        catalog::Choice,
        catalog::Device,
        catalog::Catalog,
        event::NamedStack,
        event::Notice,
        event::CopyProgress,
        event::ConvertProgress,
        event::Snapshot,
        event::Event,
    ];
    format!(
        "// Written by `cargo test -p impasto-studio` from the Rust types: do not edit.\n\n{}",
        types.join("\n")
    )
}

#[test]
fn the_window_s_types_are_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let wanted = all();
    if fs::read_to_string(&path).ok().as_ref() != Some(&wanted) {
        fs::write(&path, wanted).unwrap();
        panic!("`{FILE}` was out of date and has been written anew: look at it and commit it");
    }
}
