//! The catalogue: every built-in resource, found by group, version and plural, in discovery's order.
//!
//! Built on first use and the same for the whole process. It holds no state of a cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use api_machinery::resource::Resource;
use api_machinery::schema::{Arena, Descriptions};

/// Every built-in resource.
pub struct Catalog {
    arena: Arc<Arena>,
    resources: Vec<Arc<Resource>>,
    index: BTreeMap<(String, String, String), usize>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::build);

/// The built-in resources.
pub fn catalog() -> &'static Catalog {
    &CATALOG
}

impl Catalog {
    fn build() -> Catalog {
        let arena = crate::schemas::load();
        let resources: Vec<Arc<Resource>> = crate::entries(&arena).into_iter().map(Arc::new).collect();
        let key = |r: &Resource| (r.group.to_string(), r.version.to_string(), r.plural.to_string());
        let index = resources.iter().enumerate().map(|(i, r)| (key(r), i)).collect();
        Catalog { arena, resources, index }
    }

    /// The resource at `/apis/GROUP/VERSION/PLURAL`, or `/api/VERSION/PLURAL` with an empty group.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.index.get(&key).map(|i| &self.resources[*i])
    }

    /// The resource of a kind, such as an owner reference names it.
    pub fn get_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// The resource in its group's preferred version.
    pub fn get_preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.group == group && r.plural == plural)
    }

    /// All resources: groups in discovery's order, a group's preferred version first, plurals by name.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Resource>> {
        self.resources.iter()
    }

    /// Groups in discovery's order with their versions, the preferred one first; core has an empty name.
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for resource in &self.resources {
            let (group, version) = (&*resource.group, &*resource.version);
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        groups
    }

    /// The schemas of all kinds and of what requests and answers hold.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Descriptions for OpenAPI: decompressed on each call, so keep the document and not these.
    pub fn descriptions(&self) -> Descriptions {
        crate::schemas::descriptions(&self.arena)
    }
}
