//! Sheets: many pictures from one recipe, in a grid along one or two axes.
//!
//! A sheet is a group of jobs, one for each cell: what stops, dies or goes on does so cell by cell, as it
//! does for single pictures. The group is in the database and outlives its jobs; the pictures are pictures of
//! the gallery like any others.
//!
//! Places count from the left, then from the bottom, as the values of a drawing's axes do.

mod axis;
mod drawing;
mod making;
mod rows;
mod values;

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::{Code, Error, GenerationParams, Library, Result, queue::JobState, random_seed};

pub use axis::{Axis, AxisTarget, AxisValue, AxisWish, Entry, Reach, WeightPart};
pub use drawing::{Drawing, read};
pub(crate) use rows::{all, keep_image};

/// More pictures at once are a slip of the hand.
pub const MOST_CELLS: usize = 400;

/// Both axes of a sheet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axes {
    /// From left to right.
    pub x: Axis,
    /// From the bottom to the top.
    pub y: Option<Axis>,
}

/// All that a sheet shows: one recipe, and what changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// The recipe, with its seed.
    pub params: GenerationParams,
    /// What changes.
    pub axes: Axes,
}

/// A sheet with its cells.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct Sheet {
    /// Counts up, never used again.
    pub id: u32,
    /// What it is called.
    pub title: String,
    /// The recipe of which all cells are made.
    pub params: GenerationParams,
    /// From left to right.
    pub x: Axis,
    /// From the bottom to the top.
    pub y: Option<Axis>,
    /// From the left, then from the bottom.
    pub cells: Vec<SheetCell>,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// A cell of a sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, TS)]
pub struct SheetCell {
    /// Id of the job that makes it or made it; the job may have left the list.
    pub job: u32,
    /// Where it is on its way.
    pub state: JobState,
    /// Its picture; `null`: there is none, or it was deleted.
    pub image: Option<u32>,
}

/// A sheet in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, TS)]
pub struct SheetEntry {
    /// See [`Sheet::id`].
    pub id: u32,
    /// What it is called.
    pub title: String,
    /// Cells from left to right.
    pub columns: u32,
    /// Cells from the bottom to the top.
    pub rows: u32,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// What a sheet would be.
#[derive(Debug, Clone, PartialEq, Serialize, TS)]
pub struct SheetPlan {
    /// What it would be called.
    pub title: String,
    /// Labels from left to right.
    pub columns: Vec<String>,
    /// Labels from the bottom to the top; one empty label without a second axis.
    pub rows: Vec<String>,
    /// How many pictures.
    pub pictures: u32,
    /// About how long it takes; `null` where nothing alike was made before.
    pub seconds: Option<f64>,
    /// Whether the prompts are encoded once for all of it.
    pub shared: bool,
}

impl Grid {
    /// Reads both axes. The seed is drawn if it is open: all cells have the same.
    ///
    /// # Errors
    /// Fails if a value cannot be used, or there would be fewer than 2 or more than [`MOST_CELLS`] pictures.
    pub fn plan(
        mut params: GenerationParams,
        x: &AxisWish,
        y: Option<&AxisWish>,
        library: &Library,
    ) -> Result<Grid> {
        if let Some(y) = y
            && y.target == x.target
            // Other words may take the place of others.
            && y.target != AxisTarget::Words
        {
            let message = "both axes change the same";
            return Err(Error::new(Code::InvalidParams { field: "y" }, message)
                .hint("choose something else for one of them, or make a sheet with one axis"));
        }
        params.seed.get_or_insert_with(random_seed);
        let x = Axis::read(x, "x", &params, library)?;
        let y = y.map(|y| Axis::read(y, "y", &params, library)).transpose()?;
        let grid = Grid { params, axes: Axes { x, y } };
        grid.check()?;
        Ok(grid)
    }

    /// Whether it has as many cells as a sheet may have.
    ///
    /// # Errors
    /// Says how many there are.
    pub fn check(&self) -> Result<()> {
        let cells = self.cells();
        let refuse = |message: String, hint: &str| {
            Err(Error::new(Code::InvalidParams { field: "sheet" }, message).hint(hint))
        };
        match cells {
            0 | 1 => refuse(
                "a sheet of one picture shows no difference".into(),
                "write at least two values: `0, 1` or `0-1 [5]`",
            ),
            _ if cells > MOST_CELLS => refuse(
                format!("a sheet of {cells} pictures is too large"),
                &format!("{MOST_CELLS} at most: take fewer values"),
            ),
            _ => Ok(()),
        }
    }

    /// Cells from left to right.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.axes.x.values.len()
    }

    /// Cells from the bottom to the top.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.axes.y.as_ref().map_or(1, |y| y.values.len())
    }

    /// How many pictures it has.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.columns() * self.rows()
    }

    /// The recipe of a cell.
    ///
    /// # Panics
    /// If there is no such place.
    #[must_use]
    pub fn cell(&self, place: usize) -> GenerationParams {
        let mut params = self.params.clone();
        if let Some(y) = &self.axes.y {
            y.apply(place / self.columns(), &mut params);
        }
        self.axes.x.apply(place % self.columns(), &mut params);
        params
    }

    /// What it is called.
    #[must_use]
    pub fn title(&self) -> String {
        let Axes { x, y } = &self.axes;
        match (y, &x.target) {
            (Some(y), _) => format!("{} × {}", x.title, y.title),
            (None, AxisTarget::Weight { .. }) => format!("Strength of {}", x.title),
            (None, _) => x.title.clone(),
        }
    }

    /// Whether the prompts are encoded once for all cells.
    #[must_use]
    pub fn shares_conditioning(&self) -> bool {
        let Axes { x, y } = &self.axes;
        [Some(x), y.as_ref()].into_iter().flatten().all(|axis| axis.reach < Reach::Conditioning)
    }

    /// All places in the order in which they cost the least: along the axis that is cheaper to change, to and
    /// fro, so that from one cell to the next a single value changes.
    #[must_use]
    pub fn order(&self) -> Vec<usize> {
        let (columns, rows) = (self.columns(), self.rows());
        let rows_are_slow = self.axes.y.as_ref().is_none_or(|y| y.reach >= self.axes.x.reach);
        let (slow, fast) = if rows_are_slow { (rows, columns) } else { (columns, rows) };
        let place = |slow: usize, fast: usize| match rows_are_slow {
            true => slow * columns + fast,
            false => fast * columns + slow,
        };
        let mut order = Vec::with_capacity(columns * rows);
        for at in 0..slow {
            let there = (0..fast).map(|step| if at % 2 == 0 { step } else { fast - 1 - step });
            order.extend(there.map(|step| place(at, step)));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdapterParams, FileRef, Folders, starter::Starter};

    fn library() -> Library {
        let starter = Some(Starter::folder().expect("it is in the repository"));
        Library::open(Folders { starter, ..Folders::default() }).unwrap()
    }

    fn params() -> GenerationParams {
        let params = library().defaults(&FileRef::named("starter")).unwrap();
        let neon = AdapterParams::new(FileRef::named("neon"), 0.8);
        let prompt = "a fox, fox".to_owned();
        GenerationParams { prompt, seed: Some(7), adapters: vec![neon], ..params }
    }

    fn weight(name: &str, part: WeightPart, values: &str) -> AxisWish {
        let target = AxisTarget::Weight { file: FileRef::named(name), part };
        wish(target, values)
    }

    fn wish(target: AxisTarget, values: &str) -> AxisWish {
        AxisWish { target, title: None, values: values.into() }
    }

    fn plan(x: &AxisWish, y: Option<&AxisWish>) -> Result<Grid> {
        Grid::plan(params(), x, y, &library())
    }

    #[test]
    fn cells_have_the_values_of_their_place() {
        let x = weight("neon", WeightPart::Unet, "0-1 [3]");
        let grid = plan(&x, Some(&weight("ink", WeightPart::Both, "0, 0.7"))).unwrap();
        assert_eq!((grid.columns(), grid.rows(), grid.cells()), (3, 2, 6));
        assert_eq!(grid.title(), "Neon Glow, UNet × Ink Drawing");
        let labels = |axis: &Axis| axis.values.iter().map(|v| v.label.clone()).collect::<Vec<_>>();
        assert_eq!(labels(&grid.axes.x), ["0.00", "0.50", "1.00"]);
        let cell = grid.cell(4);
        let [neon, ink] = &cell.adapters[..] else { panic!("{cell:?}") };
        assert_eq!((neon.unet_weight, neon.text_encoder_weight), (0.5, 0.8));
        assert_eq!((ink.unet_weight, ink.text_encoder_weight, ink.enabled), (0.7, 0.7, true));
        assert_eq!(cell.seed, Some(7));
        assert_eq!(plan(&x, None).unwrap().title(), "Strength of Neon Glow, UNet");
    }

    #[test]
    fn every_parameter_can_be_an_axis() {
        let mut base = params();
        base.init = Some(crate::InitParams {
            image: None,
            denoising_strength: 0.5,
            fit: crate::InitFit::Crop,
            mask: None,
        });
        let cell = |target, values: &str, place: usize| {
            let grid = Grid::plan(base.clone(), &wish(target, values), None, &library()).unwrap();
            (grid.cell(place), grid.axes.x.values[place].label.clone())
        };
        assert_eq!(cell(AxisTarget::Steps, "4, 8-16 (+4)", 3).0.steps, 16);
        let (guided, label) = cell(AxisTarget::Guidance, "1-7 [3]", 1);
        assert_eq!((guided.guidance_scale, label.as_str()), (4.0, "4.0"));
        let labels = |values: &str| {
            let grid = plan(&wish(AxisTarget::Guidance, values), None).unwrap();
            let labels = grid.axes.x.values.into_iter().map(|value| value.label);
            labels.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels("0-1 [4]"), "0.0 0.3 0.7 1.0", "a third has no end");
        assert_eq!(labels("0.125, 1"), "0.125 1.000");
        assert_eq!(labels("0.3333, 0.3334"), "0.3333 0.3334");
        assert_eq!(cell(AxisTarget::Seed, "5-8", 2).0.seed, Some(7));
        let (sampled, label) = cell(AxisTarget::Sampler, "euler, dpm++ 2m sde", 1);
        assert_eq!((sampled.sampler.as_str(), label.as_str()), ("dpmpp_2m_sde", "DPM++ 2M SDE"));
        assert_eq!(cell(AxisTarget::Schedule, "Karras, exponential", 1).0.schedule, "exponential");
        assert_eq!(cell(AxisTarget::ClipSkip, "1, 2", 1).0.clip_skip, 2);
        let (denoised, _) = cell(AxisTarget::Denoising, "0.2, 0.9", 1);
        assert_eq!(denoised.init.unwrap().denoising_strength, 0.9);
        assert_eq!(cell(AxisTarget::Words, "fox, owl", 0).0.prompt, "a fox, fox");
        assert_eq!(cell(AxisTarget::Words, "fox, owl", 1).0.prompt, "a owl, owl");
        assert_eq!(cell(AxisTarget::Model, "starter, starter", 1).0.model.name, "starter");
    }

    #[test]
    fn what_cannot_be_made_is_refused_with_its_axis() {
        let steps = |values: &str| wish(AxisTarget::Steps, values);
        for (x, field, word) in [
            (steps("4"), "sheet", "one picture"),
            (steps("0-4"), "x", "0 is out of range"),
            (steps("four"), "x", "`four`"),
            (wish(AxisTarget::Sampler, "euler, magic"), "x", "`magic`"),
            (wish(AxisTarget::Words, "zebra, owl"), "x", "`zebra`"),
            (wish(AxisTarget::Denoising, "0, 1"), "x", "start from"),
            (wish(AxisTarget::Model, "starter, nothing"), "x", "`nothing`"),
            (weight("nothing", WeightPart::Both, "0, 1"), "x", "`nothing`"),
        ] {
            let error = plan(&x, None).unwrap_err();
            assert_eq!(error.code(), Code::InvalidParams { field }, "{error:?}");
            assert!(error.message().contains(word), "{error:?}");
        }
        let error = plan(&steps("1-30"), Some(&wish(AxisTarget::Seed, "1-30"))).unwrap_err();
        assert!(error.message().contains("900 pictures"), "{error:?}");
        let error = plan(&steps("1-3"), Some(&steps("4-6"))).unwrap_err();
        assert_eq!(error.code(), Code::InvalidParams { field: "y" });
    }

    /// One value changes from each cell to the next, and the dearer one as seldom as can be.
    #[test]
    fn the_order_goes_to_and_fro_along_the_cheaper_axis() {
        let unet = weight("neon", WeightPart::Unet, "0, 1, 2");
        let words = wish(AxisTarget::Words, "fox, owl");
        let steps = wish(AxisTarget::Steps, "2, 4");
        let order = |x, y| plan(x, Some(y)).unwrap().order();
        assert_eq!(order(&unet, &words), [0, 1, 2, 5, 4, 3]);
        assert_eq!(order(&words, &unet), [0, 2, 4, 5, 3, 1]);
        assert_eq!(order(&steps, &unet), [0, 1, 3, 2, 4, 5]);
        assert_eq!(order(&unet, &steps), [0, 3, 4, 1, 2, 5]);
        assert_eq!(plan(&unet, None).unwrap().order(), [0, 1, 2]);
        assert!(plan(&unet, Some(&steps)).unwrap().shares_conditioning());
        assert!(!plan(&unet, Some(&words)).unwrap().shares_conditioning());
    }

    #[test]
    fn whether_an_adapter_acts_on_the_words_is_told_from_its_header() {
        let reach =
            |name: &str, part| plan(&weight(name, part, "0, 1"), None).unwrap().axes.x.reach;
        assert_eq!(reach("twemoji", WeightPart::Both), Reach::Conditioning);
        assert_eq!(reach("twemoji", WeightPart::Unet), Reach::Unet);
        assert_eq!(reach("twemoji", WeightPart::TextEncoder), Reach::Conditioning);
    }
}
