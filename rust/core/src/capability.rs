//! What a node offers and what a daemon needs.
//!
//! Invariants
//! * `a=b` and `a:b` are one tag; it is kept as `a=b`. The key of a tag ends at its first `=` or `:`.
//! * Malformed and reserved tags are refused, never dropped.
//! * A requirement that cannot be judged (missing, not a number, or offered with two values) is not met.
//!
//! Keys that filters read: `hardware.memory_gb`, `hardware.gpu`, `hardware.gpu.vendor`, `hardware.gpu.vram_gb`
//! (or `hardware.gpu.<i>.vram_gb` for each of several), `software.model.<i>.id`, `software.model.<i>.context_length`,
//! `software.model.<i>.modality` and `software.tool.<i>.tool_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

/// Longest tag and longest metadata key, in bytes.
pub const TAG_BYTES_MAX: usize = 255;

/// Longest metadata value, in bytes.
pub const VALUE_BYTES_MAX: usize = 65_535;

/// Keys that meshos writes itself.
const RESERVED_KEYS: [&str; 5] = ["causal", "dataforts", "fork-of", "heat", "scope"];

/// Why tags, metadata or a filter are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// Nothing, or nothing before or after the separator.
    #[error("the tag {tag:?} lacks a key or a value")]
    Empty {
        /// The tag as given.
        tag: String,
    },
    /// Too many bytes.
    #[error("a tag or metadata entry of {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// Length found.
        bytes: usize,
        /// Length allowed.
        max: usize,
    },
    /// Whitespace or a control character.
    #[error("character {at} of the tag {tag:?} is whitespace or a control character")]
    InvalidChar {
        /// The tag as given.
        tag: String,
        /// Offset of the character in bytes.
        at: usize,
    },
    /// A key that meshos writes itself.
    #[error("the tag {tag:?} has a reserved prefix")]
    Reserved {
        /// The tag as given.
        tag: String,
    },
    /// A metadata key that is given twice.
    #[error("the metadata key {key:?} is given twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A minimum that is not a number of zero or more.
    #[error("{field} is not a number of zero or more")]
    InvalidMinimum {
        /// Field of the filter.
        field: &'static str,
    },
}

/// Tags and metadata of a node, in a canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CapabilitySet {
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
}

impl CapabilitySet {
    /// Checks and collects tags and metadata. A tag given twice is one tag.
    ///
    /// # Errors
    /// A [`CapabilityError`] for the first tag or entry that is malformed or reserved.
    pub fn parse<Tags, Metadata>(tags: Tags, metadata: Metadata) -> Result<Self, CapabilityError>
    where
        Tags: IntoIterator<Item: AsRef<str>>,
        Metadata: IntoIterator<Item = (String, String)>,
    {
        let tags = tags
            .into_iter()
            .map(|tag| canonical(tag.as_ref()))
            .collect::<Result<_, _>>()?;
        let mut set = Self {
            tags,
            metadata: BTreeMap::new(),
        };
        for (key, value) in metadata {
            check_text(&key)?;
            if value.len() > VALUE_BYTES_MAX {
                return Err(CapabilityError::TooLong {
                    bytes: value.len(),
                    max: VALUE_BYTES_MAX,
                });
            }
            if set.metadata.contains_key(&key) {
                return Err(CapabilityError::DuplicateKey { key });
            }
            set.metadata.insert(key, value);
        }
        Ok(set)
    }

    /// The tags in canonical form, ascending.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    /// The metadata, ascending by key.
    #[must_use]
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Tells whether the tag is there, however its separator is written. A malformed tag is not.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.contains(tag) || self.tags.contains(&with_equals(tag))
    }

    /// Everything of both; where both have a metadata key, the value of `other`.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        merged.tags.extend(other.tags.iter().cloned());
        merged
            .metadata
            .extend(other.metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        merged
    }

    fn has_key(&self, key: &str) -> bool {
        self.tags.contains(key) || self.values(key).next().is_some()
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        let first = format!("{key}=");
        self.tags
            .range(first.clone()..)
            .map_while(move |tag| tag.strip_prefix(first.as_str()))
    }

    /// The one value of a key; none if there are several.
    fn value(&self, key: &str) -> Option<&str> {
        let mut values = self.values(key);
        values.next().filter(|_| values.next().is_none())
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.value(key)?.parse().ok().filter(is_minimum)
    }

    /// Values of `<prefix>.<i>.<name>` for every index `i`.
    fn indexed(&self, prefix: &str, name: &str) -> impl Iterator<Item = &str> {
        let first = format!("{prefix}.");
        self.tags
            .range(first.clone()..)
            .map_while(move |tag| tag.strip_prefix(first.as_str()))
            .filter_map(move |rest| {
                let (index, rest) = rest.split_once('.')?;
                let (key, value) = rest.split_once('=')?;
                (key == name && is_index(index)).then_some(value)
            })
    }

    /// Memory of the primary GPU, or of all GPUs that are listed by index.
    fn vram_gb(&self) -> Option<f64> {
        if self.has_key("hardware.gpu.vram_gb") {
            return self.number("hardware.gpu.vram_gb");
        }
        let mut indices = BTreeSet::new();
        let mut total = None;
        for tag in self.tags.iter().filter_map(|tag| tag.strip_prefix("hardware.gpu.")) {
            let Some((index, rest)) = tag.split_once('.').filter(|(index, _)| is_index(index)) else {
                continue;
            };
            let Some(value) = rest.strip_prefix("vram_gb=") else {
                continue;
            };
            let gigabytes = value.parse().ok().filter(is_minimum)?;
            if !indices.insert(index) {
                return None;
            }
            total = Some(total.unwrap_or(0.0) + gigabytes);
        }
        total
    }
}

/// Makers of graphics processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GpuVendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple.
    Apple,
    /// Qualcomm.
    Qualcomm,
}

impl GpuVendor {
    /// The word in tags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Amd => "amd",
            Self::Intel => "intel",
            Self::Apple => "apple",
            Self::Qualcomm => "qualcomm",
        }
    }
}

impl fmt::Display for GpuVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hard requirements on a node. The empty filter fits everywhere.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CapabilityFilter {
    /// All of these tags.
    pub require_tags: BTreeSet<String>,
    /// One of these models, by `software.model.<i>.id`.
    pub require_models: BTreeSet<String>,
    /// One of these tools, by `software.tool.<i>.tool_id`.
    pub require_tools: BTreeSet<String>,
    /// Each of these offered by some model, by `software.model.<i>.modality`.
    pub require_modalities: BTreeSet<String>,
    /// A GPU, by `hardware.gpu`.
    pub require_gpu: bool,
    /// A GPU of this maker; implies a GPU.
    pub gpu_vendor: Option<GpuVendor>,
    /// Main memory in gigabytes.
    pub min_memory_gb: Option<f64>,
    /// GPU memory in gigabytes: of the primary GPU, or failing that of all of them; implies a GPU.
    pub min_vram_gb: Option<f64>,
    /// Tokens that some model takes.
    pub min_context_length: Option<u64>,
}

impl CapabilityFilter {
    /// Checks that the filter itself makes sense.
    ///
    /// # Errors
    /// A [`CapabilityError`] for a malformed tag, or for a minimum that is negative or not a number.
    pub fn validate(&self) -> Result<(), CapabilityError> {
        for tag in &self.require_tags {
            check_tag(tag)?;
        }
        for (field, minimum) in [("min_memory_gb", self.min_memory_gb), ("min_vram_gb", self.min_vram_gb)] {
            if minimum.is_some_and(|minimum| !is_minimum(&minimum)) {
                return Err(CapabilityError::InvalidMinimum { field });
            }
        }
        Ok(())
    }

    /// Tells whether nothing is missing.
    #[must_use]
    pub fn matches(&self, offered: &CapabilitySet) -> bool {
        self.missing(offered).is_empty()
    }

    /// What is missing, in words for a person.
    #[must_use]
    pub fn missing(&self, offered: &CapabilitySet) -> Vec<String> {
        let mut missing = Vec::new();
        let absent = self.require_tags.iter().filter(|tag| !offered.has_tag(tag));
        missing.extend(absent.map(|tag| format!("the tag {tag}")));

        let one_of = [
            (
                &self.require_models,
                offered.indexed("software.model", "id").collect::<BTreeSet<_>>(),
                "model",
            ),
            (
                &self.require_tools,
                offered.indexed("software.tool", "tool_id").collect(),
                "tool",
            ),
        ];
        for (required, offered, what) in one_of {
            if !required.is_empty() && !required.iter().any(|wanted| offered.contains(wanted.as_str())) {
                missing.push(format!("a {what} of {}", list(required)));
            }
        }
        let modalities: BTreeSet<_> = offered.indexed("software.model", "modality").collect();
        let absent = self
            .require_modalities
            .iter()
            .filter(|modality| !modalities.contains(modality.as_str()));
        missing.extend(absent.map(|modality| format!("a model for {modality}")));

        let needs_gpu = self.require_gpu || self.gpu_vendor.is_some() || self.min_vram_gb.is_some();
        if needs_gpu && !offered.has_key("hardware.gpu") {
            missing.push("a GPU".into());
        }
        if let Some(vendor) = self.gpu_vendor
            && offered.value("hardware.gpu.vendor") != Some(vendor.as_str())
        {
            missing.push(format!("a GPU of {vendor}"));
        }
        let minimums = [
            (self.min_memory_gb, offered.number("hardware.memory_gb"), "memory"),
            (self.min_vram_gb, offered.vram_gb(), "GPU memory"),
        ];
        for (minimum, found, what) in minimums {
            let Some(minimum) = minimum else { continue };
            match found {
                Some(found) if found >= minimum => {}
                Some(found) => missing.push(format!("{minimum} GB of {what} (offered {found})")),
                None => missing.push(format!("{minimum} GB of {what} (not stated)")),
            }
        }
        if let Some(minimum) = self.min_context_length {
            let longest = offered
                .indexed("software.model", "context_length")
                .filter_map(|text| text.parse().ok())
                .max();
            if longest.is_none_or(|longest: u64| longest < minimum) {
                missing.push(format!("a model of {minimum} tokens"));
            }
        }
        missing
    }
}

fn canonical(tag: &str) -> Result<String, CapabilityError> {
    check_tag(tag)?;
    Ok(with_equals(tag))
}

fn with_equals(tag: &str) -> String {
    match tag.split_once(['=', ':']) {
        Some((key, value)) => format!("{key}={value}"),
        None => tag.to_owned(),
    }
}

fn check_tag(tag: &str) -> Result<(), CapabilityError> {
    check_text(tag)?;
    match tag.split_once(['=', ':']) {
        Some((key, value)) if key.is_empty() || value.is_empty() => Err(CapabilityError::Empty { tag: tag.to_owned() }),
        Some((key, _)) if RESERVED_KEYS.contains(&key) => Err(CapabilityError::Reserved { tag: tag.to_owned() }),
        _ => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), CapabilityError> {
    if text.is_empty() {
        return Err(CapabilityError::Empty { tag: String::new() });
    }
    if text.len() > TAG_BYTES_MAX {
        return Err(CapabilityError::TooLong {
            bytes: text.len(),
            max: TAG_BYTES_MAX,
        });
    }
    match text
        .char_indices()
        .find(|(_, char)| char.is_whitespace() || char.is_control())
    {
        Some((at, _)) => Err(CapabilityError::InvalidChar {
            tag: text.to_owned(),
            at,
        }),
        None => Ok(()),
    }
}

fn is_minimum(value: &f64) -> bool {
    value.is_finite() && *value >= 0.0
}

fn is_index(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn list(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
