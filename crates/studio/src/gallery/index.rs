//! The gallery's tables: their queries.

use std::path::Path;

use rusqlite::{Connection, Row, ToSql, params, params_from_iter};

use super::{GalleryCounts, GalleryImage, GalleryQuery, Making, NameCount};
use crate::{GenerationParams, Recipe, Result, files, picture};

/// Reads a picture's file and puts it into the index, or brings its row up to date; gives its id.
pub(super) fn add(db: &Connection, path: &Path, making: Option<&Making>) -> Result<u32> {
    let (width, height) = picture::size(path)?;
    let (modified, size) = files::stamp(path)?;
    let recipe = Recipe::open(path).ok();
    let params = recipe.and_then(|recipe| {
        let mut params = GenerationParams::default();
        params.apply(recipe.fields).ok().map(|_| params)
    });
    let names = |params: &GenerationParams| -> Vec<String> {
        params.adapters.iter().filter(|a| a.enabled).map(|a| a.file.name.clone()).collect()
    };
    let adapters = params.as_ref().map(names).unwrap_or_default();
    let words = params.as_ref().map(|params| words(params, &adapters)).unwrap_or_default();
    let json = params.as_ref().map(|params| params.to_json().to_string());
    let list =
        |values: &[String]| (!values.is_empty()).then(|| serde_json::json!(values).to_string());
    let patches = making.map(|making| serde_json::to_string(&making.patches).unwrap_or_default());

    let path = path.to_string_lossy();
    let id: u32 = db
        .prepare_cached(
            "INSERT INTO image (path, size, modified, width, height, params, ground, words,
                 created_at, seconds, device, patches, warnings)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?3, ?9, ?10, ?11, ?12)
             ON CONFLICT (path) DO UPDATE SET size = ?2, modified = ?3, width = ?4, height = ?5,
                 params = ?6, ground = ?7, words = ?8, gone = 0
             RETURNING id",
        )?
        .query_row(
            params![
                path,
                size,
                modified,
                width,
                height,
                json,
                params.as_ref().map(|params| &params.model.name),
                words,
                making.and_then(|making| making.seconds),
                making.and_then(|making| making.device.as_ref()),
                patches,
                making.and_then(|making| list(&making.warnings)),
            ],
            |row| row.get(0),
        )?;
    db.prepare_cached("DELETE FROM image_adapter WHERE image = ?1")?.execute([id])?;
    for name in adapters {
        db.prepare_cached("INSERT OR IGNORE INTO image_adapter (image, name) VALUES (?1, ?2)")?
            .execute(params![id, name])?;
    }
    Ok(id)
}

/// What a search looks at, in lower case.
fn words(params: &GenerationParams, adapters: &[String]) -> String {
    let seed = params.seed.map(|seed| seed.to_string()).unwrap_or_default();
    [&params.prompt, &params.negative_prompt, &params.model.name, &adapters.join("\n"), &seed]
        .map(|text| text.to_lowercase())
        .join("\n")
}

/// Parameters from the JSON of a row.
pub(crate) fn params_of(json: &str) -> Option<GenerationParams> {
    let fields = serde_json::from_str(json).ok()?;
    let mut params = GenerationParams::default();
    params.apply(fields).ok()?;
    Some(params)
}

pub(super) fn ids(db: &Connection, query: &GalleryQuery) -> Result<Vec<u32>> {
    let mut sql = String::from("SELECT id FROM image WHERE gone = 0");
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    for word in query.search.to_lowercase().split_whitespace() {
        sql.push_str(" AND instr(words, ?) > 0");
        values.push(Box::new(word.to_owned()));
    }
    if query.favourites {
        sql.push_str(" AND path IN (SELECT path FROM image_note WHERE favourite = 1)");
    }
    if let Some(since) = query.since {
        sql.push_str(" AND created_at >= ?");
        values.push(Box::new(since));
    }
    if let Some(ground) = &query.ground {
        sql.push_str(" AND ground = ?");
        values.push(Box::new(ground.clone()));
    }
    if let Some(adapter) = &query.adapter {
        sql.push_str(" AND id IN (SELECT image FROM image_adapter WHERE name = ?)");
        values.push(Box::new(adapter.clone()));
    }
    sql.push_str(match query.oldest_first {
        true => " ORDER BY created_at, id",
        false => " ORDER BY created_at DESC, id DESC",
    });
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn get(db: &Connection, ids: &[u32]) -> Result<Vec<GalleryImage>> {
    let mut statement = db.prepare_cached(
        "SELECT id, path, width, height, created_at, seconds, device, params, patches, warnings,
             EXISTS (SELECT 1 FROM image_note AS note WHERE note.path = image.path AND favourite = 1)
         FROM image WHERE id = ?1 AND gone = 0",
    )?;
    let mut images = Vec::with_capacity(ids.len());
    for id in ids {
        for row in statement.query_map([id], image)? {
            images.push(row?);
        }
    }
    Ok(images)
}

fn image(row: &Row<'_>) -> rusqlite::Result<GalleryImage> {
    let path: String = row.get(1)?;
    let name = Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    let json = |column| -> rusqlite::Result<Option<String>> { row.get(column) };
    Ok(GalleryImage {
        id: row.get(0)?,
        name: name.unwrap_or_default(),
        width: row.get(2)?,
        height: row.get(3)?,
        created_at: row.get(4)?,
        seconds: row.get(5)?,
        device: row.get(6)?,
        params: json(7)?.as_deref().and_then(params_of),
        patches: json(8)?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
        warnings: json(9)?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
        favourite: row.get(10)?,
        path,
    })
}

pub(super) fn counts(db: &Connection) -> Result<GalleryCounts> {
    let count = |sql: &str| db.query_row(sql, [], |row| row.get(0));
    let names = |sql: &str| -> Result<Vec<NameCount>> {
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement
            .query_map([], |row| Ok(NameCount { name: row.get(0)?, count: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    Ok(GalleryCounts {
        all: count("SELECT count(*) FROM image WHERE gone = 0")?,
        favourites: count(
            "SELECT count(*) FROM image JOIN image_note USING (path)
             WHERE gone = 0 AND favourite = 1",
        )?,
        grounds: names(
            "SELECT ground, count(*) AS n FROM image WHERE gone = 0 AND ground IS NOT NULL
             GROUP BY ground ORDER BY n DESC, ground",
        )?,
        adapters: names(
            "SELECT name, count(*) AS n FROM image_adapter JOIN image ON image.id = image
             WHERE gone = 0 GROUP BY name ORDER BY n DESC, name",
        )?,
    })
}

pub(super) fn set_favourite(db: &mut Connection, ids: &[u32], favourite: bool) -> Result<()> {
    let transaction = db.transaction()?;
    for id in ids {
        transaction.execute(
            "INSERT INTO image_note (path, favourite) SELECT path, ?2 FROM image WHERE id = ?1
             ON CONFLICT (path) DO UPDATE SET favourite = ?2",
            params![id, favourite],
        )?;
    }
    transaction.commit()?;
    Ok(())
}

/// Hides pictures that were deleted, or shows them again. Their rows stay, so that they come back as
/// they were.
pub(super) fn set_gone(db: &Connection, ids: &[u32], gone: bool) -> Result<()> {
    let mut statement = db.prepare_cached("UPDATE image SET gone = ?2 WHERE id = ?1")?;
    for id in ids {
        statement.execute(params![id, gone])?;
    }
    Ok(())
}

/// What the index knows: id, path, size and time of change of every picture, deleted ones too.
pub(super) fn known(db: &Connection) -> Result<Vec<(u32, String, i64, i64)>> {
    let mut statement = db.prepare("SELECT id, path, size, modified FROM image")?;
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
