//! Folders of other programs that are found in their usual places: they are offered once, never added
//! unasked.

use std::path::PathBuf;

use super::{Cards, rows, types::FolderOffer};
use crate::{
    Result,
    library::Walk,
    places::{self, Place},
};

impl Cards {
    /// Looks for other programs, once, on a thread of its own: counting may mean reading many headers.
    pub(super) fn look_for_programs(&self) {
        if std::mem::replace(&mut self.shelf().looked_for_programs, true)
            || self.0.data.others.is_empty()
        {
            return;
        }
        let cards = self.clone();
        let looking = move || match cards.find_offers() {
            Ok(offers) if !offers.is_empty() => {
                cards.shelf().offers = offers;
                cards.changed();
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("other programs' folders are not offered: {error}"),
        };
        if let Err(error) = std::thread::Builder::new().name("places".into()).spawn(looking) {
            tracing::warn!("other programs' folders are not looked for: {error}");
        }
    }

    fn find_offers(&self) -> Result<Vec<FolderOffer>> {
        let known = self.shelf().extra.clone();
        let answered = rows::answered_offers(&self.0.db.lock())?;
        let mut offers = Vec::new();
        for place in places::programs_in(&self.0.data.others, &known) {
            if answered.contains(&place.folder) {
                continue;
            }
            let Some(models) = self.count(&place) else { break };
            if let Some(program) = place.program.filter(|_| models > 0) {
                offers.push(FolderOffer {
                    program: program.name.to_owned(),
                    path: place.folder.display().to_string(),
                    models,
                });
            }
        }
        // Meanwhile some may have been added.
        let added = self.shelf().extra.clone();
        offers.retain(|offer| !added.contains(&PathBuf::from(&offer.path)));
        Ok(offers)
    }

    /// Models in a place that can be put to use; `None` when the program ends meanwhile.
    fn count(&self, place: &Place) -> Option<u32> {
        let mut walk = Walk::default();
        place.list(&mut walk);
        let mut models = 0;
        for entry in &walk.entries {
            if self.0.scanner.closing() {
                return None;
            }
            models += u32::from(entry.kind().is_some());
        }
        Some(models)
    }

    /// Takes offers of these folders away, for good: they were added, or are not wanted.
    pub(crate) fn answer_offers(&self, folders: &[PathBuf]) -> Result<()> {
        let answered: Vec<PathBuf> = {
            let mut shelf = self.shelf();
            let all = std::mem::take(&mut shelf.offers);
            let (answered, open) =
                all.into_iter().partition(|offer| folders.contains(&PathBuf::from(&offer.path)));
            shelf.offers = open;
            let answered: Vec<FolderOffer> = answered;
            answered.into_iter().map(|offer| offer.path.into()).collect()
        };
        if answered.is_empty() {
            return Ok(());
        }
        {
            let db = self.0.db.lock();
            for path in &answered {
                rows::answer_offer(&db, path)?;
            }
        }
        self.changed();
        Ok(())
    }
}
