//! What one can do with a sheet: start it, stop it, complete it, delete it, write it into a file.

use std::path::Path;

use super::{Axes, Drawing, Grid, Sheet, SheetEntry, SheetPlan, rows};
use crate::{
    Code, Error, GenerationParams, Result,
    desk::Desk,
    event::Event,
    files::Existing,
    gallery, picture,
    queue::{self, Job, JobState},
};

/// How many pictures a guess at the time looks back at.
const LOOK_BACK: u32 = 20;

impl Desk {
    /// What a sheet would be, and about how long it would take.
    pub(crate) fn plan_sheet(&self, grid: &Grid) -> Result<SheetPlan> {
        let labels = |axis: &super::Axis| axis.values.iter().map(|v| v.label.clone()).collect();
        Ok(SheetPlan {
            title: grid.title(),
            columns: labels(&grid.axes.x),
            rows: grid.axes.y.as_ref().map_or_else(|| vec![String::new()], labels),
            pictures: grid.cells() as u32,
            seconds: self.seconds(grid)?,
            shared: grid.shares_conditioning(),
        })
    }

    /// From what a step took for pictures alike: of the same base model and size.
    fn seconds(&self, grid: &Grid) -> Result<Option<f64>> {
        let db = self.db.lock();
        let mut statement = db.prepare_cached(
            "SELECT seconds, params FROM image
             WHERE ground = ?1 AND width = ?2 AND height = ?3 AND seconds IS NOT NULL
             ORDER BY id DESC LIMIT ?4",
        )?;
        let wanted = &grid.params;
        let alike = (&wanted.model.name, wanted.width, wanted.height, LOOK_BACK);
        let rows = statement.query_map(alike, |row| {
            Ok((row.get::<_, f64>(0)?, row.get::<_, Option<String>>(1)?))
        })?;
        let mut steps = Vec::new();
        for row in rows {
            let (seconds, params) = row?;
            if let Some(params) = params.as_deref().and_then(gallery::params_of) {
                steps.push(seconds / f64::from(params.steps.max(1)));
            }
        }
        steps.sort_by(f64::total_cmp);
        let step = steps.get(steps.len() / 2);
        let all = || (0..grid.cells()).map(|place| f64::from(grid.cell(place).steps)).sum::<f64>();
        Ok(step.map(|step| step * all()))
    }

    /// Puts a job for each cell into the queue; gives the sheet's id.
    pub(crate) fn start_sheet(&self, grid: &Grid) -> Result<u32> {
        let mut sheet = 0;
        self.add_jobs(self.state(), |db| {
            let transaction = db.transaction()?;
            let jobs;
            (sheet, jobs) = rows::add(&transaction, grid)?;
            transaction.commit()?;
            self.events.send(&Event::Sheets(rows::all(db)?));
            Ok(jobs)
        })?;
        Ok(sheet)
    }

    pub(crate) fn sheets(&self) -> Result<Vec<SheetEntry>> {
        rows::all(&self.db.lock())
    }

    pub(crate) fn sheet(&self, id: u32) -> Result<Sheet> {
        rows::get(&self.db.lock(), id)
    }

    /// What a cell was asked to be.
    pub(crate) fn sheet_cell(&self, id: u32, place: usize) -> Result<GenerationParams> {
        let grid = Grid::from(self.sheet(id)?);
        if place >= grid.cells() {
            let message = format!("the sheet has no cell {place}");
            return Err(Error::new(Code::InvalidParams { field: "place" }, message)
                .hint(format!("they count from 0 to {}", grid.cells() - 1)));
        }
        Ok(grid.cell(place))
    }

    /// Stops what is left of it.
    pub(crate) fn cancel_sheet(&self, id: u32) -> Result<()> {
        let sheet = self.sheet(id)?;
        let left = sheet.cells.iter().filter(|cell| !cell.state.ended());
        self.cancel(&left.map(|cell| cell.job).collect::<Vec<_>>())
    }

    /// Puts the cells without a picture into the queue again.
    pub(crate) fn complete_sheet(&self, id: u32) -> Result<()> {
        self.add_jobs(self.state(), |db| {
            let sheet = rows::get(db, id)?;
            let (cells, grid) = (sheet.cells.clone(), Grid::from(sheet));
            let transaction = db.transaction()?;
            let mut jobs = Vec::new();
            for place in grid.order() {
                let cell = cells[place];
                if cell.image.is_some() || !cell.state.ended() {
                    continue;
                }
                // A job that ended without a picture is still in the list, unless it was taken off.
                let listed =
                    cell.state != JobState::Done && queue::get(&transaction, cell.job).is_ok();
                let job = match listed {
                    true => queue::again(&transaction, cell.job)?,
                    false => queue::add(&transaction, &grid.cell(place))?,
                };
                rows::set_job(&transaction, id, place, job.id)?;
                jobs.push(Job { sheet: Some(id), ..job });
            }
            transaction.commit()?;
            Ok(jobs)
        })?;
        Ok(())
    }

    /// Takes a sheet off the list, and what is left of it out of the queue. Its pictures stay.
    pub(crate) fn delete_sheet(&self, id: u32) -> Result<()> {
        self.cancel_sheet(id)?;
        let db = self.db.lock();
        rows::remove(&db, id)?;
        self.events.send(&Event::Sheets(rows::all(&db)?));
        Ok(())
    }

    /// Writes a sheet as one picture with labels; cells without a picture stay empty.
    pub(crate) fn export_sheet(&self, id: u32, path: &Path) -> Result<()> {
        let sheet = self.sheet(id)?;
        let images: Vec<_> = sheet.cells.iter().map(|cell| cell.image).collect();
        let mut drawing = Drawing::new(Grid::from(sheet));
        for (place, image) in images.into_iter().enumerate() {
            // A file that was moved away leaves its cell empty, as one that was deleted does.
            let file = image.and_then(|image| self.gallery.path(image).ok());
            if let Some(file) = file.filter(|file| file.exists()) {
                let picture = picture::open(&file)?;
                let (width, height) = picture.dimensions();
                drawing.put(place, engine::Image { width, height, pixels: picture.into_raw() });
            }
        }
        Ok(drawing.save(path, Existing::Replace)?)
    }
}

impl From<Sheet> for Grid {
    fn from(Sheet { params, x, y, .. }: Sheet) -> Grid {
        Grid { params, axes: Axes { x, y } }
    }
}
