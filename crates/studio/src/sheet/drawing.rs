//! A sheet as one picture: its cells in a grid, with labels around them and its recipe inside.

use std::{io, path::Path};

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{Axes, Grid};
use crate::{
    Code, Error, GenerationParams, Result,
    files::Existing,
    png::{self, SHEET},
};

/// No side of a sheet is longer, in pixels.
const MAX_SIDE: u32 = 8192;

/// What the window writes with, too.
const FONT: &[u8] = include_bytes!("../../../../assets/font/labels.ttf");

// Neutral, so that colors can be judged.
const PAPER: Rgb<u8> = Rgb([244, 244, 243]);
const EMPTY: Rgb<u8> = Rgb([226, 226, 225]);
const INK: Rgb<u8> = Rgb([44, 43, 42]);

/// Letters for a cell: the height of a line, as a part of its shorter side, and bounds in pixels.
const LETTERS: (f32, f32, f32) = (1.0 / 14.0, 14.0, 40.0);

/// The names of rows take this part of the width at most, and as much as a cell or so many letters' height.
const MOST_FOR_NAMES: (u32, f32) = (4, 12.0);

/// A sheet that is being drawn.
#[derive(Debug)]
pub struct Drawing {
    grid: Grid,
    layout: Layout,
    canvas: RgbImage,
}

/// Where everything goes, in pixels.
#[derive(Debug, Clone, PartialEq)]
struct Layout {
    /// Of a cell.
    cell: (u32, u32),
    gap: u32,
    /// Height of the letters.
    letters: f32,
    /// Of the upper left cell.
    left: u32,
    top: u32,
    /// The lines below the cells.
    caption: Vec<String>,
    size: (u32, u32),
}

impl Drawing {
    /// An empty sheet. Cells have their full size, or one at which the whole is no longer than 8192 a side.
    #[must_use]
    pub fn new(grid: Grid) -> Drawing {
        let font = font();
        let mut cell = (grid.params.width, grid.params.height);
        let mut layout = Layout::of(&grid, cell, &font);
        while layout.size.0.max(layout.size.1) > MAX_SIDE && cell.0.max(cell.1) > 1 {
            let scale = f64::from(MAX_SIDE) / f64::from(layout.size.0.max(layout.size.1));
            // At least a pixel less, or labels could keep it too large for ever.
            let side = |side: u32| ((f64::from(side) * scale) as u32).min(side - 1).max(1);
            cell = (side(cell.0.max(2)), side(cell.1.max(2)));
            layout = Layout::of(&grid, cell, &font);
        }
        let mut canvas = RgbImage::from_pixel(layout.size.0, layout.size.1, PAPER);
        for place in 0..grid.cells() {
            let (x, y) = layout.corner(&grid, place);
            let empty = RgbImage::from_pixel(cell.0, cell.1, EMPTY);
            imageops::replace(&mut canvas, &empty, i64::from(x), i64::from(y));
        }
        let mut drawing = Drawing { grid, layout, canvas };
        drawing.label(&font);
        drawing
    }

    /// Width and height in pixels.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        self.layout.size
    }

    /// The upper left corner of a cell, and its size, in pixels.
    #[must_use]
    pub fn cell(&self, place: usize) -> ((u32, u32), (u32, u32)) {
        (self.layout.corner(&self.grid, place), self.layout.cell)
    }

    /// Draws the picture of a cell.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn put(&mut self, place: usize, picture: engine::Image) {
        let engine::Image { width, height, pixels } = picture;
        let picture =
            RgbImage::from_raw(width, height, pixels).expect("a picture has three bytes a pixel");
        let (x, y) = self.layout.corner(&self.grid, place);
        let (width, height) = self.layout.cell;
        let (x, y) = (i64::from(x), i64::from(y));
        if picture.dimensions() == (width, height) {
            imageops::replace(&mut self.canvas, &picture, x, y);
        } else {
            let scaled = imageops::resize(&picture, width, height, FilterType::Lanczos3);
            imageops::replace(&mut self.canvas, &scaled, x, y);
        }
    }

    /// Writes it with the recipe of all cells and what changes between them: the whole file or nothing.
    ///
    /// # Errors
    /// Names the file and the reason.
    pub fn save(self, path: &Path, existing: Existing) -> io::Result<()> {
        let axes = serde_json::to_string(&self.grid.axes).unwrap_or_default();
        let mut texts = png::recipe_texts(&self.grid.params);
        texts.push((SHEET, axes));
        let (width, height) = self.layout.size;
        let image = engine::Image { width, height, pixels: self.canvas.into_raw() };
        png::write(path, existing, &image, &texts)
    }

    fn label(&mut self, font: &FontRef<'_>) {
        let Drawing { grid, layout, canvas } = self;
        let Layout { cell, gap, letters, left, .. } = *layout;
        let pen = Pen { font, letters };
        let columns = grid.columns();
        for (place, value) in grid.axes.x.values.iter().enumerate() {
            let label = pen.shortened(&value.label, (cell.0 + gap) as f32);
            let (x, _) = layout.corner(grid, place);
            let middle = x as f32 + cell.0 as f32 / 2.0 - pen.width(&label) / 2.0;
            pen.write(canvas, &label, middle, layout.top as f32 - letters * 0.5 - pen.line());
        }
        for (row, value) in grid.axes.y.iter().flat_map(|y| y.values.iter().enumerate()) {
            // The layout's whole pixels may be two short.
            let label = pen.shortened(&value.label, left as f32 - letters * 1.6 + 2.0);
            let (_, y) = layout.corner(grid, row * columns);
            let right = left as f32 - letters * 0.6 - pen.width(&label);
            pen.write(canvas, &label, right, y as f32 + (cell.1 as f32 - pen.line()) / 2.0);
        }
        let below = layout.size.1 as f32 - letters - pen.line() * layout.caption.len() as f32;
        for (at, line) in layout.caption.iter().enumerate() {
            let middle = (layout.size.0 as f32 - pen.width(line)) / 2.0;
            pen.write(canvas, line, middle, below + pen.line() * at as f32);
        }
    }
}

impl Layout {
    fn of(grid: &Grid, cell: (u32, u32), font: &FontRef<'_>) -> Layout {
        let (part, least, most) = LETTERS;
        let letters = (cell.0.min(cell.1) as f32 * part).clamp(least, most);
        let pen = Pen { font, letters };
        let gap = (cell.0.min(cell.1) / 32).max(2);
        let across = |cells: usize, side: u32| cells as u32 * (side + gap) - gap;
        let (width, height) = (across(grid.columns(), cell.0), across(grid.rows(), cell.1));

        let names = grid.axes.y.iter().flat_map(|y| &y.values);
        let longest = names.map(|value| pen.width(&value.label)).fold(0.0, f32::max);
        let (part, least) = MOST_FOR_NAMES;
        let most = ((width / part).max(cell.0) as f32).max(least * letters);
        let margin = letters as u32;
        let left = match grid.axes.y {
            Some(_) => margin + longest.min(most).ceil() as u32 + (letters * 0.6) as u32,
            None => margin,
        };
        let top = margin + pen.line().ceil() as u32 + (letters * 0.5) as u32;
        let whole = left + width + margin;
        let caption = pen.lines(&caption(grid), (whole - 2 * margin) as f32);
        let lines = pen.line() * caption.len() as f32 + letters * 0.5;
        let size = (whole, top + height + lines.ceil() as u32 + margin);
        Layout { cell, gap, letters, left, top, caption, size }
    }

    /// The upper left corner of a cell: rows go up.
    fn corner(&self, grid: &Grid, place: usize) -> (u32, u32) {
        let (column, row) = (place % grid.columns(), place / grid.columns());
        let from_top = grid.rows() - 1 - row;
        let at = |start: u32, index: usize, side: u32| start + index as u32 * (side + self.gap);
        (at(self.left, column, self.cell.0), at(self.top, from_top, self.cell.1))
    }
}

/// What stands below the cells.
fn caption(grid: &Grid) -> String {
    let Axes { x, y } = &grid.axes;
    match y {
        Some(y) => format!("{} →   {} ↑", x.title, y.title),
        None => format!("{} →", x.title),
    }
}

fn font() -> FontRef<'static> {
    FontRef::try_from_slice(FONT).expect("the font in the repository can be read")
}

/// Letters of one size.
struct Pen<'a> {
    font: &'a FontRef<'a>,
    letters: f32,
}

impl Pen<'_> {
    fn scale(&self) -> PxScale {
        PxScale::from(self.letters)
    }

    /// Height of a line.
    fn line(&self) -> f32 {
        self.letters * 1.25
    }

    fn width(&self, text: &str) -> f32 {
        let font = self.font.as_scaled(self.scale());
        text.chars().map(|c| font.h_advance(font.glyph_id(c))).sum()
    }

    /// The beginning of a text that is too long.
    fn shortened(&self, text: &str, most: f32) -> String {
        if self.width(text) <= most {
            return text.to_owned();
        }
        let mut kept: String = text.to_owned();
        while kept.pop().is_some() {
            let shortened = format!("{}…", kept.trim_end());
            if self.width(&shortened) <= most {
                return shortened;
            }
        }
        String::new()
    }

    /// Breaks a text between words.
    fn lines(&self, text: &str, most: f32) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}")) <= most => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines.iter().map(|line| self.shortened(line, most)).collect()
    }

    /// Writes with the upper left corner of the line at a place.
    fn write(&self, canvas: &mut RgbImage, text: &str, x: f32, y: f32) {
        let font = self.font.as_scaled(self.scale());
        let (mut x, baseline) = (x, y + (self.line() - font.height()) / 2.0 + font.ascent());
        for c in text.chars() {
            let id = font.glyph_id(c);
            let glyph = id.with_scale_and_position(self.scale(), point(x, baseline));
            x += font.h_advance(id);
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|dx, dy, share| {
                let (px, py) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
                let (Ok(px), Ok(py)) = (u32::try_from(px), u32::try_from(py)) else { return };
                if let Some(pixel) = canvas.get_pixel_mut_checked(px, py) {
                    for (under, over) in pixel.0.iter_mut().zip(INK.0) {
                        let mixed = f32::from(*under) * (1.0 - share) + f32::from(over) * share;
                        *under = mixed.round() as u8;
                    }
                }
            });
        }
    }
}

/// Reads back what a sheet's file shows.
///
/// # Errors
/// Fails if the file is no sheet of ours.
pub fn read(path: &Path) -> Result<Grid> {
    let texts = png::read_texts(path)?;
    let text = |keyword: &str| texts.iter().find(|(found, _)| found == keyword).map(|(_, t)| t);
    let none = || {
        Error::new(Code::Unknown, format!("`{}` is no sheet", path.display()))
            .hint("sheets are the pictures that `impasto sheet` and the window write")
    };
    let axes: Axes = serde_json::from_str(text(SHEET).ok_or_else(none)?)
        .map_err(|error| none().because(error))?;
    let fields = serde_json::from_str(text(png::RECIPE).ok_or_else(none)?)
        .map_err(|error| none().because(error))?;
    let mut params = GenerationParams::default();
    params.apply(fields)?;
    Ok(Grid { params, axes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sheet::{Axis, AxisTarget, AxisValue, Entry, Reach};

    fn axis(title: &str, labels: &[&str]) -> Axis {
        let value = |label: &&str| AxisValue {
            label: (*label).to_owned(),
            value: Entry::Text((*label).to_owned()),
        };
        Axis {
            target: AxisTarget::Words,
            title: title.into(),
            reach: Reach::Conditioning,
            values: labels.iter().map(value).collect(),
        }
    }

    fn grid(columns: &[&str], rows: &[&str], (width, height): (u32, u32)) -> Grid {
        let y = (!rows.is_empty()).then(|| axis("Žluťoučký kůň", rows));
        let params = GenerationParams { width, height, seed: Some(7), ..Default::default() };
        Grid { params, axes: Axes { x: axis("Weight", columns), y } }
    }

    fn plain((width, height): (u32, u32), color: [u8; 3]) -> engine::Image {
        let pixels = RgbImage::from_pixel(width, height, Rgb(color)).into_raw();
        engine::Image { width, height, pixels }
    }

    #[test]
    fn cells_go_to_their_places_and_labels_around_them() {
        let mut drawing = Drawing::new(grid(&["0", "1", "2"], &["low", "high"], (64, 32)));
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]];
        for (place, color) in colors.into_iter().enumerate() {
            drawing.put(place, plain((64, 32), color));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let (size, cells) = (drawing.size(), [0, 3, 5].map(|place| drawing.cell(place)));
        let expected = drawing.grid.clone();
        drawing.save(&path, Existing::Keep).unwrap();
        let image = image::open(&path).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), size);
        let [first, upper, missing] = cells;
        assert_eq!(first.1, (64, 32));
        assert!(upper.0.1 < first.0.1, "rows go up");
        for ((corner, cell), color) in [(first, colors[0]), (upper, colors[3]), (missing, EMPTY.0)]
        {
            for (dx, dy) in [(0, 0), (cell.0 - 1, cell.1 - 1)] {
                assert_eq!(image.get_pixel(corner.0 + dx, corner.1 + dy).0, color);
            }
        }
        let dark = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            y.flat_map(|y| x.clone().map(move |x| (x, y)))
                .filter(|(x, y)| image.get_pixel(*x, *y).0[1] < 100)
                .count()
        };
        let (left, top) = (upper.0.0, upper.0.1);
        assert!(dark(left..size.0, 0..top) > 10, "names of the columns");
        assert!(dark(0..left, top..first.0.1 + 32) > 20, "names of the rows");
        assert!(dark(0..size.0, first.0.1 + 33..size.1) > 20, "what they are");
        assert_eq!(read(&path).unwrap(), expected);
        let texts = png::read_texts(&path).unwrap();
        assert!(
            texts.iter().any(|(keyword, text)| keyword == "parameters" && text.contains("Seed: 7"))
        );
    }

    #[test]
    fn a_large_sheet_is_scaled_down() {
        let names: Vec<String> = (0..20).map(|name| name.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut drawing = Drawing::new(grid(&names, &names, (1024, 512)));
        let (width, height) = drawing.size();
        assert!(width <= MAX_SIDE && height <= MAX_SIDE, "{width} × {height}");
        assert!(width > MAX_SIDE - 200, "{width}");
        drawing.put(399, plain((1024, 512), [9, 9, 9]));
        let ((x, y), _) = drawing.cell(399);
        assert_eq!(drawing.canvas.get_pixel(x + 20, y + 20).0, [9, 9, 9]);
    }

    #[test]
    fn the_longest_and_the_smallest_still_fit() {
        let long = "a very long name ".repeat(40);
        for (grid, most) in [
            (grid(&[&long, &long], &[&long, "x"], (64, 64)), 400),
            (grid(&vec!["0.00"; 400], &[], (512, 512)), MAX_SIDE),
            (grid(&["a"], &vec!["猫"; 400], (8, 4096)), MAX_SIDE),
        ] {
            let (width, height) = Drawing::new(grid).size();
            assert!(width <= most && height <= most.max(MAX_SIDE), "{width} × {height}");
        }
    }

    #[test]
    fn other_pictures_are_no_sheets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = engine::Image { width: 1, height: 1, pixels: vec![0; 3] };
        png::save(&path, Existing::Keep, &image, &GenerationParams::default()).unwrap();
        assert!(read(&path).unwrap_err().message().contains("no sheet"));
    }
}
