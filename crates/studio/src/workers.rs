//! Who makes pictures: one worker for each device that the settings stand for, all on the one queue.
//!
//! A worker has one device for its life. Where the settings change, those whose device is no longer wanted
//! leave when their picture is done, and others begin.

use engine::{DeviceId, DeviceInfo};

/// What a setting of the device stands for, among the devices that there are: the one that it names, or every
/// card that can be used, or the processor where there is none. Never empty.
pub(crate) fn devices_for(setting: &str, devices: &[DeviceInfo]) -> Vec<DeviceId> {
    if let Ok(named) = setting.parse() {
        return vec![named];
    }
    let usable = devices.iter().filter(|device| device.unusable.is_none()).map(|device| device.id);
    let (processors, cards): (Vec<_>, Vec<_>) = usable.partition(|id| *id == DeviceId::Cpu);
    match (cards.is_empty(), processors.is_empty()) {
        (false, _) => cards,
        (true, false) => processors,
        (true, true) => vec![DeviceId::Cpu],
    }
}

/// Those that work, in the order of their devices, and behind them those that are to leave.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    posts: Vec<Post>,
    /// The number that was given last.
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Post {
    worker: u32,
    device: DeviceId,
    leaves: bool,
}

impl Workers {
    /// Fits them to the devices that are wanted; gives who is new, with its device.
    pub(crate) fn fit(&mut self, devices: &[DeviceId]) -> Vec<(u32, DeviceId)> {
        let mut before = std::mem::take(&mut self.posts);
        let mut new = Vec::new();
        for &device in devices {
            let known = before.iter().position(|post| post.device == device);
            let worker = known.map(|at| before.remove(at).worker).unwrap_or_else(|| {
                self.last += 1;
                new.push((self.last, device));
                self.last
            });
            self.posts.push(Post { worker, device, leaves: false });
        }
        self.posts.extend(before.into_iter().map(|post| Post { leaves: true, ..post }));
        new
    }

    /// The devices that pictures are made on.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.staying().map(|post| post.device)
    }

    /// Whether a worker is to go on; one that is not is forgotten.
    pub(crate) fn stays(&mut self, worker: u32) -> bool {
        self.posts.retain(|post| post.worker != worker || !post.leaves);
        self.posts.iter().any(|post| post.worker == worker)
    }

    /// Whether it is the one that makes the frames of Live.
    pub(crate) fn is_first(&self, worker: u32) -> bool {
        self.staying().next().is_some_and(|post| post.worker == worker)
    }

    /// Whether there is another one beside the first.
    pub(crate) fn are_several(&self) -> bool {
        self.staying().nth(1).is_some()
    }

    /// Takes a worker off if others stay; gives its device then.
    pub(crate) fn spare(&mut self, worker: u32) -> Option<DeviceId> {
        self.staying().find(|post| post.worker != worker)?;
        self.remove(worker)
    }

    /// Takes a worker off; gives its device.
    pub(crate) fn remove(&mut self, worker: u32) -> Option<DeviceId> {
        let at = self.posts.iter().position(|post| post.worker == worker)?;
        Some(self.posts.remove(at).device)
    }

    fn staying(&self) -> impl Iterator<Item = &Post> {
        self.posts.iter().filter(|post| !post.leaves)
    }
}

#[cfg(test)]
mod tests {
    use DeviceId::{Cpu, Cuda};

    use super::*;

    fn device(id: DeviceId, unusable: Option<&str>) -> DeviceInfo {
        let unusable = unusable.map(str::to_owned);
        DeviceInfo { id, name: id.to_string(), memory_bytes: None, driver: None, unusable }
    }

    #[test]
    fn a_setting_stands_for_devices() {
        let alone = [device(Cpu, None)];
        let absent = [device(Cpu, None), device(Cuda(0), Some("there is no driver"))];
        let one = [device(Cpu, None), device(Cuda(0), None)];
        let three = [
            device(Cpu, None),
            device(Cuda(0), None),
            device(Cuda(1), Some("it is too old")),
            device(Cuda(2), None),
        ];
        let table: [(&str, &[DeviceInfo], &[DeviceId]); 10] = [
            ("auto", &alone, &[Cpu]),
            ("auto", &absent, &[Cpu]),
            ("auto", &one, &[Cuda(0)]),
            ("auto", &three, &[Cuda(0), Cuda(2)]),
            ("auto", &[], &[Cpu]),
            ("cpu", &three, &[Cpu]),
            ("cuda", &three, &[Cuda(0)]),
            ("cuda:2", &three, &[Cuda(2)]),
            // Asked for by name, it says itself why it cannot be used.
            ("cuda:1", &three, &[Cuda(1)]),
            ("cuda:7", &alone, &[Cuda(7)]),
        ];
        for (setting, devices, expected) in table {
            assert_eq!(devices_for(setting, devices), expected, "{setting} of {devices:?}");
        }
    }

    #[test]
    fn workers_grow_and_shrink_and_keep_their_devices() {
        let mut workers = Workers::default();
        assert_eq!(workers.fit(&[Cpu]), [(1, Cpu)]);
        assert!(workers.is_first(1) && !workers.are_several());
        assert_eq!(workers.fit(&[Cuda(0), Cuda(1)]), [(2, Cuda(0)), (3, Cuda(1))]);
        assert!(workers.is_first(2) && workers.are_several());
        assert_eq!(workers.devices().collect::<Vec<_>>(), [Cuda(0), Cuda(1)]);
        assert!(!workers.stays(1), "the processor is not wanted any more");

        assert_eq!(workers.fit(&[Cuda(1)]), [], "it goes on with what it has loaded");
        assert!(workers.is_first(3) && !workers.are_several());
        assert_eq!(workers.fit(&[Cuda(0), Cuda(1)]), [], "back before it was gone");
        assert!(workers.is_first(2) && workers.stays(2) && workers.stays(3));

        assert_eq!(workers.fit(&[Cpu]), [(4, Cpu)]);
        assert!(!workers.stays(2) && !workers.stays(3) && workers.stays(4));
        assert_eq!(workers.fit(&[Cuda(0)]), [(5, Cuda(0))], "who has left does not come back");
    }

    #[test]
    fn devices_alike_have_a_worker_each() {
        let mut workers = Workers::default();
        assert_eq!(workers.fit(&[Cpu, Cpu]), [(1, Cpu), (2, Cpu)]);
        assert_eq!(workers.fit(&[Cpu, Cpu]), []);
    }

    #[test]
    fn the_last_one_cannot_be_spared() {
        let mut workers = Workers::default();
        workers.fit(&[Cuda(0), Cuda(1)]);
        assert_eq!(workers.spare(1), Some(Cuda(0)));
        assert!(!workers.stays(1) && workers.is_first(2));
        assert_eq!(workers.spare(2), None);
        assert!(workers.stays(2));
        // Nor for one that leaves: who else would go on?
        workers.fit(&[Cpu]);
        assert_eq!(workers.spare(3), None);
    }
}
