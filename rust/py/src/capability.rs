//! What a node offers and what a daemon needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::capability::{CapabilityError, CapabilityFilter, CapabilitySet, GpuVendor};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyMapping, PyMappingProxy, PyString, PyTuple};

use crate::args;
use crate::errors::InvalidArgument;
use crate::guard::entry;
use crate::record::field::{Field, Given, number, texts};
use crate::record::{self, Record, Reduced};

/// Tags such as `hardware.gpu` or `software.cuda=12`, and metadata. `a=b` and `a:b` are one tag.
#[pyclass(frozen, eq, hash, name = "CapabilitySet", module = "meshos.capability")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyCapabilitySet(pub CapabilitySet);

/// What a daemon adds to its node, as a field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered(pub Arc<CapabilitySet>);

impl Field for Offered {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let set = args::instance::<PyCapabilitySet>(value, name, "a CapabilitySet")?;
        Ok(Self(Arc::new(set.get().0.clone())))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, PyCapabilitySet((*self.0).clone()))?.into_any())
    }
}

impl Record for PyCapabilitySet {
    const FIELDS: &'static [&'static str] = &["tags", "metadata"];
}

#[pymethods]
impl PyCapabilitySet {
    #[new]
    #[pyo3(signature = (tags = Given::Not, metadata = Given::Not), text_signature = "(tags=(), metadata=...)")]
    fn new(tags: Given<'_>, metadata: Given<'_>) -> PyResult<Self> {
        entry("CapabilitySet", || {
            let tags: Vec<String> = tags.map_or(Vec::new(), |tags| texts(tags, "tags"))?;
            let metadata = metadata.map_or(Vec::new(), read_metadata)?;
            let metadata = CapabilitySet::parse(NO_TAGS, metadata).map_err(|error| refused(&error, "metadata"))?;
            let tags = CapabilitySet::parse(tags, NO_METADATA).map_err(|error| refused(&error, "tags"))?;
            Ok(Self(tags.merge(&metadata)))
        })
    }

    /// The tags, in the form with `=`.
    #[getter]
    fn tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, self.0.tags())
    }

    /// What else is known of it.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        Ok(PyMappingProxy::new(py, self.metadata_dict(py)?.as_mapping()))
    }

    /// Whether a tag is there, in either form.
    fn has_tag(&self, tag: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("CapabilitySet.has_tag", || {
            Ok(self.0.has_tag(&String::from_python(tag, "tag")?))
        })
    }

    fn __or__(&self, other: &Self) -> Self {
        Self(self.0.merge(&other.0))
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        // In order, which those of a frozenset are not.
        let tags: Vec<_> = self.0.tags().map(|tag| format!("{tag:?}")).collect();
        let metadata = self.metadata_dict(py)?;
        let metadata = if metadata.is_empty() {
            String::new()
        } else {
            format!(", {}", metadata.repr()?)
        };
        Ok(format!("CapabilitySet([{}]{metadata})", tags.join(", ")))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let py = slf.py();
        let arguments = (
            PyTuple::new(py, slf.get().0.tags().collect::<Vec<_>>())?,
            slf.get().metadata_dict(py)?,
        );
        Ok((slf.get_type().into_any(), arguments.into_pyobject(py)?))
    }
}

const NO_TAGS: [&str; 0] = [];
const NO_METADATA: [(String, String); 0] = [];

impl PyCapabilitySet {
    fn metadata_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (key, value) in self.0.metadata() {
            dict.set_item(key, value)?;
        }
        Ok(dict)
    }
}

/// Hard requirements on a node; the empty filter fits everywhere. A requirement that cannot be judged fails.
#[pyclass(frozen, eq, name = "CapabilityFilter", module = "meshos.capability")]
#[derive(Debug, Clone, PartialEq)]
pub struct PyCapabilityFilter(pub CapabilityFilter);

impl Record for PyCapabilityFilter {
    const FIELDS: &'static [&'static str] = &[
        "require_tags",
        "require_models",
        "require_tools",
        "require_modalities",
        "require_gpu",
        "gpu_vendor",
        "min_memory_gb",
        "min_vram_gb",
        "min_context_length",
    ];
    const BY_KEYWORD: bool = true;
}

const VENDORS: [(&str, GpuVendor); 5] = [
    ("nvidia", GpuVendor::Nvidia),
    ("amd", GpuVendor::Amd),
    ("intel", GpuVendor::Intel),
    ("apple", GpuVendor::Apple),
    ("qualcomm", GpuVendor::Qualcomm),
];

#[pymethods]
impl PyCapabilityFilter {
    #[new]
    #[pyo3(
        signature = (
            *,
            require_tags = Given::Not,
            require_models = Given::Not,
            require_tools = Given::Not,
            require_modalities = Given::Not,
            require_gpu = Given::Not,
            gpu_vendor = None,
            min_memory_gb = None,
            min_vram_gb = None,
            min_context_length = None
        ),
        text_signature = "(*, require_tags=..., require_models=..., require_tools=..., require_modalities=..., \
            require_gpu=False, gpu_vendor=None, min_memory_gb=None, min_vram_gb=None, min_context_length=None)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn new(
        require_tags: Given<'_>,
        require_models: Given<'_>,
        require_tools: Given<'_>,
        require_modalities: Given<'_>,
        require_gpu: Given<'_>,
        gpu_vendor: Option<&Bound<'_, PyAny>>,
        min_memory_gb: Option<&Bound<'_, PyAny>>,
        min_vram_gb: Option<&Bound<'_, PyAny>>,
        min_context_length: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("CapabilityFilter", || {
            let set = |given: &Given<'_>, name| given.map_or(BTreeSet::new(), |given| texts(given, name));
            let minimum = |given: Option<&Bound<'_, PyAny>>, name| given.map(|given| number(given, name)).transpose();
            let filter = CapabilityFilter {
                require_tags: set(&require_tags, "require_tags")?,
                require_models: set(&require_models, "require_models")?,
                require_tools: set(&require_tools, "require_tools")?,
                require_modalities: set(&require_modalities, "require_modalities")?,
                require_gpu: require_gpu.read_or("require_gpu", false)?,
                gpu_vendor: gpu_vendor.map(read_vendor).transpose()?,
                min_memory_gb: minimum(min_memory_gb, "min_memory_gb")?,
                min_vram_gb: minimum(min_vram_gb, "min_vram_gb")?,
                min_context_length: min_context_length
                    .map(|given| args::u64(given, "min_context_length"))
                    .transpose()?,
            };
            filter.validate().map_err(|error| refused(&error, "require_tags"))?;
            Ok(Self(filter))
        })
    }

    /// Whether all that is required is offered.
    fn matches(&self, offered: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("CapabilityFilter.matches", || {
            Ok(self.0.matches(&read_offered(offered)?.0))
        })
    }

    /// Name what is missing, in words, for a person.
    fn missing<'py>(&self, py: Python<'py>, offered: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        entry("CapabilityFilter.missing", || {
            PyTuple::new(py, self.0.missing(&read_offered(offered)?.0))
        })
    }

    /// All of these tags.
    #[getter]
    fn require_tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, &self.0.require_tags)
    }

    /// One of these models.
    #[getter]
    fn require_models<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, &self.0.require_models)
    }

    /// One of these tools.
    #[getter]
    fn require_tools<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, &self.0.require_tools)
    }

    /// Each of these, by some model.
    #[getter]
    fn require_modalities<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, &self.0.require_modalities)
    }

    /// A GPU.
    #[getter]
    fn require_gpu(&self) -> bool {
        self.0.require_gpu
    }

    /// A GPU of this vendor.
    #[getter]
    fn gpu_vendor(&self) -> Option<&'static str> {
        let vendor = self.0.gpu_vendor?;
        VENDORS
            .iter()
            .find(|(_, known)| *known == vendor)
            .map(|(name, _)| *name)
    }

    /// So much memory.
    #[getter]
    fn min_memory_gb(&self) -> Option<f64> {
        self.0.min_memory_gb
    }

    /// So much memory of a GPU.
    #[getter]
    fn min_vram_gb(&self) -> Option<f64> {
        self.0.min_vram_gb
    }

    /// Some model with a context of so many tokens.
    #[getter]
    fn min_context_length(&self) -> Option<u64> {
        self.0.min_context_length
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        record::hash(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

/// Names the argument: a text of `argument`, or the minimum that the error is about.
fn refused(error: &CapabilityError, argument: &'static str) -> PyErr {
    let argument = match error {
        CapabilityError::InvalidMinimum { field } => field,
        CapabilityError::Empty { .. }
        | CapabilityError::TooLong { .. }
        | CapabilityError::InvalidChar { .. }
        | CapabilityError::Reserved { .. }
        | CapabilityError::DuplicateKey { .. } => argument,
    };
    InvalidArgument::new_err((argument, error.to_string()))
}

fn read_metadata(value: &Bound<'_, PyAny>) -> PyResult<Vec<(String, String)>> {
    let name = "metadata";
    let mapping = value
        .cast::<PyMapping>()
        .map_err(|_| args::wrong_type(name, "a mapping of str to str", value))?;
    let pair = |item: Bound<'_, PyAny>| {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        Ok((String::from_python(&key, name)?, String::from_python(&value, name)?))
    };
    mapping.items()?.iter().map(pair).collect()
}

fn read_vendor(value: &Bound<'_, PyAny>) -> PyResult<GpuVendor> {
    let name = "gpu_vendor";
    let text = value
        .cast::<PyString>()
        .map_err(|_| args::wrong_type(name, "a str", value))?
        .to_string_lossy();
    let found = VENDORS.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, vendor)| vendor).ok_or_else(|| {
        let names = VENDORS.map(|(name, _)| name).join(", ");
        InvalidArgument::new_err((name, format!("must be one of {names}, not {text:?}")))
    })
}

fn read_offered<'a>(offered: &'a Bound<'_, PyAny>) -> PyResult<&'a PyCapabilitySet> {
    Ok(args::instance::<PyCapabilitySet>(offered, "offered", "a CapabilitySet")?.get())
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCapabilitySet>()?;
    module.add_class::<PyCapabilityFilter>()
}
