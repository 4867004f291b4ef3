//! `impasto sheet`: many pictures from one recipe, in a grid along one or two axes.

use std::path::PathBuf;

use serde::Serialize;
use studio::{
    Code, Destination, Error, Result,
    files::{self, Existing},
    sheet::{self, Axes, Axis, AxisWish, Drawing, Grid},
};

use crate::{
    args::SheetArgs,
    generate::{Report, Run},
    output,
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct SheetReport {
    sheet: PathBuf,
    /// Labels from left to right.
    columns: Vec<String>,
    /// Labels from the bottom to the top.
    rows: Vec<String>,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn sheet(args: &SheetArgs) -> Result<()> {
    let Destination::File(path) = Destination::at(&args.out)? else {
        let message = format!("cannot write the sheet to `{}`", args.out.display());
        return Err(Error::new(Code::InvalidParams { field: "out" }, message)
            .hint("a sheet is one picture: name a file that ends in .png"));
    };
    let mut run = Run::start(&args.picture)?;
    let grid = plan(args, &run)?;
    let cells = args.cells.clone().map(Destination::Folder);
    files::prepare_folder(files::folder_of(&path))?;
    cells.iter().try_for_each(Destination::prepare)?;

    let count = grid.cells();
    run.watcher.over(count);
    let mut drawing = Drawing::new(grid.clone());
    for (index, place) in grid.order().into_iter().enumerate() {
        let (recipe, made) = run.picture(grid.cell(place), index, count)?;
        if let Some(folder) = &cells {
            let cell = folder.save(index, count, &made.image, &recipe)?;
            if !args.json {
                run.watcher.aside(|| output::line(&cell.display().to_string()));
            }
            run.images.push(cell);
        }
        drawing.put(place, made.image);
    }
    drawing.save(&path, Existing::Replace)?;

    let report = run.finish();
    if args.json {
        let labels = |axis: &Axis| axis.values.iter().map(|value| value.label.clone()).collect();
        let (columns, rows) = (labels(&grid.axes.x), grid.axes.y.as_ref().map(labels));
        output::json(&SheetReport { sheet: path, columns, rows: rows.unwrap_or_default(), report });
    } else {
        output::line(&path.display().to_string());
    }
    Ok(())
}

/// The axes of the options, or else those of a recipe that is a sheet.
fn plan(args: &SheetArgs, run: &Run<'_>) -> Result<Grid> {
    let params = run.params.clone();
    let wishes: Option<(&AxisWish, Option<&AxisWish>)> = match (&args.x, &args.y) {
        (Some(x), y) => Some((x, y.as_ref())),
        (None, Some(y)) => Some((y, None)),
        (None, None) => None,
    };
    if let Some((x, y)) = wishes {
        return Grid::plan(params, x, y, &run.library);
    }
    let recipe = args.picture.recipe.as_deref();
    let Some(Axes { x, y }) = recipe.and_then(|path| sheet::read(path).ok()).map(|grid| grid.axes)
    else {
        let message = "there is no axis: nothing changes from one picture to the next";
        return Err(Error::new(Code::InvalidParams { field: "x" }, message).hint(
            "name what changes, with its values: --x 'neon=0-1 [5]', or give the recipe of a sheet",
        ));
    };
    let grid = Grid { params, axes: Axes { x, y } };
    grid.check()?;
    Ok(grid)
}
