//! How much adapters change a base model, measured once and kept as long as the files stay as they are.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use engine::adapter::{
    Outline,
    strength::{ByBlock, Scale, Strength},
};

use super::{
    Cards,
    reading::Stamp,
    types::{AdapterStrength, StackStrength},
};
use crate::{Code, Error, Result, error::sentence, worker};

/// Measuring leaves the processor to pictures.
const NICE: i32 = 15;

/// A file as it was when it was measured.
type Key = (PathBuf, Stamp);

/// What was measured on the base model that was asked for last.
#[derive(Debug, Default)]
pub(super) struct Measured {
    scale: Option<(Key, Arc<Scale>)>,
    strengths: HashMap<Key, Strength>,
    /// The smaller key first.
    products: HashMap<(Key, Key), ByBlock>,
    /// Stops the measuring under way.
    stop: Arc<AtomicBool>,
}

impl Measured {
    fn product(&self, a: &Key, b: &Key) -> Option<&ByBlock> {
        self.products.get(&ordered(a, b))
    }
}

fn ordered(a: &Key, b: &Key) -> (Key, Key) {
    let pair = (a.clone(), b.clone());
    if a.0 <= b.0 { pair } else { (pair.1, pair.0) }
}

impl Cards {
    /// How much adapters change a base model. Takes a moment for those that were not measured before; a
    /// later question ends an earlier one.
    ///
    /// # Errors
    /// [`Code::Cancelled`] then; otherwise if a file cannot be read.
    pub(crate) fn strengths(&self, checkpoint: u32, adapters: &[u32]) -> Result<StackStrength> {
        let cards = self.clone();
        let asked = adapters.to_vec();
        let measuring = thread::Builder::new().name("strength".into()).spawn(move || {
            worker::lower_priority(NICE);
            cards.measure(checkpoint, &asked)
        })?;
        measuring.join().unwrap_or_else(|_| {
            Err(Error::new(Code::Unknown, "the strength of the stack could not be measured"))
        })
    }

    fn measure(&self, checkpoint: u32, adapters: &[u32]) -> Result<StackStrength> {
        let base = self.file(checkpoint)?;
        let stop = Arc::new(AtomicBool::new(false));
        {
            let mut measured = self.measured();
            measured.stop.store(true, Ordering::Relaxed);
            measured.stop = stop.clone();
        }
        let mut keys: Vec<Key> = Vec::new();
        for id in adapters {
            let file = self.file(*id)?;
            keys.push((file.entry.path.clone(), file.stamp));
        }
        let scale = self.scale(&(base.entry.path.clone(), base.stamp))?;

        // What is missing, with the files that it takes.
        let missing: Vec<(usize, usize)> = {
            let measured = self.measured();
            let pairs = (0..keys.len()).flat_map(|i| (i..keys.len()).map(move |j| (i, j)));
            pairs.filter(|(i, j)| measured.product(&keys[*i], &keys[*j]).is_none()).collect()
        };
        let mut involved: Vec<usize> = missing.iter().flat_map(|&(i, j)| [i, j]).collect();
        involved.sort_unstable();
        involved.dedup();
        let opened: Result<Vec<Outline>> =
            involved.iter().map(|at| Ok(Outline::open(&keys[*at].0)?)).collect();
        let wanted = |i: usize, j: usize| missing.contains(&(involved[i], involved[j]));
        let measures = scale.measure(&opened?, &wanted, &stop)?;

        let mut measured = self.measured();
        if measured.scale.as_ref().is_none_or(|(_, current)| !Arc::ptr_eq(current, &scale)) {
            return Err(engine::Error::Cancelled.into());
        }
        for (at, strength) in involved.iter().zip(measures.strengths) {
            measured.strengths.insert(keys[*at].clone(), strength);
        }
        let mut products = measures.products.into_iter();
        for (first, i) in involved.iter().enumerate() {
            for j in &involved[first..] {
                let Some(product) = products.next() else { break };
                if missing.contains(&(*i, *j)) {
                    measured.products.insert(ordered(&keys[*i], &keys[*j]), product);
                }
            }
        }
        Ok(answer(&measured, adapters, &keys))
    }

    fn measured(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.0.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The base model to measure on; another than the last one begins anew.
    fn scale(&self, key: &Key) -> Result<Arc<Scale>> {
        if let Some((known, scale)) = &self.measured().scale
            && known == key
            && scale.is_current()
        {
            return Ok(scale.clone());
        }
        let lender = self.names()?.lender(&key.0).map(|entry| entry.path.clone());
        let scale = Arc::new(Scale::open(&key.0, lender.as_deref())?);
        let mut measured = self.measured();
        measured.strengths.clear();
        measured.products.clear();
        measured.scale = Some((key.clone(), scale.clone()));
        Ok(scale)
    }
}

fn answer(measured: &Measured, ids: &[u32], keys: &[Key]) -> StackStrength {
    let row = |a: &Key| {
        let product = |b: &Key| measured.product(a, b).map_or_else(Vec::new, |row| row.to_vec());
        keys.iter().map(product).collect()
    };
    let adapters = ids.iter().zip(keys).filter_map(|(&adapter, key)| {
        let strength = measured.strengths.get(key)?;
        Some(AdapterStrength {
            adapter,
            relative: strength.relative(measured.product(key, key)?),
            without_effect: strength.without_effect as u32,
            problem: strength.problem.as_deref().map(sentence),
        })
    });
    StackStrength { adapters: adapters.collect(), products: keys.iter().map(row).collect() }
}
