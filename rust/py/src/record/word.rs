//! Words: enums without data, which Python sees as members of a `StrEnum`, or as the plain texts of a `Literal`.
//!
//! The `StrEnum` classes are Python's. Each is imported when the first of its words is read or shown, and its members
//! are kept.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFrozenSet, PyString, PyType};

use crate::args;
use crate::errors::InvalidArgument;

/// A `StrEnum` of Python, and its members in the order of the enum here.
pub struct Words {
    home: &'static str,
    class: &'static str,
    values: &'static [&'static str],
    members: PyOnceLock<Vec<Py<PyAny>>>,
}

impl Words {
    /// The class of this name in a module, with the values of its members.
    pub const fn new(home: &'static str, class: &'static str, values: &'static [&'static str]) -> Self {
        Self {
            home,
            class,
            values,
            members: PyOnceLock::new(),
        }
    }

    fn members(&self, py: Python<'_>) -> PyResult<&[Py<PyAny>]> {
        let members = self.members.get_or_try_init(py, || {
            let class = py.import(self.home)?.getattr(self.class)?;
            let member = |value: &&str| class.call1((*value,)).map(Bound::unbind);
            self.values.iter().map(member).collect::<PyResult<_>>()
        });
        members.map(Vec::as_slice)
    }

    /// The position of a member; nothing else is one, not even its text.
    pub fn position(&self, value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<usize> {
        let members = self.members(value.py())?;
        let found = members.iter().position(|member| member.is(value));
        found.ok_or_else(|| args::wrong_type(name, &format!("a member of {}", self.class), value))
    }

    /// The member at a position.
    pub fn member<'py>(&self, py: Python<'py>, position: usize) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.members(py)?[position].bind(py).clone())
    }
}

/// A word as an attribute of a class: a descriptor, so that its `StrEnum` is imported when it is first asked for.
#[pyclass(frozen, name = "_LazyWord", module = "meshos._core")]
pub struct LazyWord(pub for<'py> fn(Python<'py>) -> PyResult<Bound<'py, PyAny>>);

#[pymethods]
impl LazyWord {
    fn __get__<'py>(
        &self,
        py: Python<'py>,
        _instance: &Bound<'py, PyAny>,
        _owner: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        (self.0)(py)
    }
}

/// The `repr` of a value, as it could be evaluated: that of a word, of a set of words and of a key of PyNaCl could not.
pub fn shown(value: &Bound<'_, PyAny>) -> PyResult<String> {
    static ENUM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = value.get_type();
    if value.is_instance(ENUM.import(value.py(), "enum", "Enum")?)? {
        return Ok(format!("{}.{}", class.name()?, value.getattr("name")?));
    }
    if let Ok(set) = value.cast::<PyFrozenSet>() {
        let mut items: Vec<_> = set.iter().map(|item| shown(&item)).collect::<PyResult<_>>()?;
        items.sort();
        return Ok(match items.as_slice() {
            [] => "frozenset()".to_owned(),
            items => format!("frozenset({{{}}})", items.join(", ")),
        });
    }
    if class.module()? == "nacl.signing" {
        return Ok(format!(
            "{}({})",
            class.name()?,
            value.call_method0("__bytes__")?.repr()?
        ));
    }
    Ok(value.repr()?.to_string_lossy().into_owned())
}

/// Declares how Python sees an enum: as the members of a `StrEnum` that lives in a module of Python.
macro_rules! word {
    ($type:ty as $class:literal in $home:literal { $($variant:ident = $value:literal,)* }) => {
        const _: () = {
            use $crate::record::word::Words;
            static WORDS: Words = Words::new($home, $class, &[$($value),*]);
            const ALL: &[$type] = &[$(<$type>::$variant),*];

            impl $crate::record::field::Field for $type {
                fn from_python(value: &pyo3::Bound<'_, pyo3::PyAny>, name: &'static str) -> pyo3::PyResult<Self> {
                    WORDS.position(value, name).map(|position| ALL[position])
                }

                fn to_python<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                    let position = ALL.iter().position(|word| word == self).expect("every variant is declared");
                    WORDS.member(py, position)
                }
            }
        };
    };
}
pub(crate) use word;

/// Reads one of several texts.
pub fn choice<T: Copy>(value: &Bound<'_, PyAny>, name: &'static str, choices: &[(T, &'static str)]) -> PyResult<T> {
    let text = value
        .cast::<PyString>()
        .map_err(|_| args::wrong_type(name, "a str", value))?;
    let text = text.to_string_lossy();
    let found = choices.iter().find(|(_, choice)| *choice == text);
    found.map(|(choice, _)| *choice).ok_or_else(|| {
        let mut wanted = String::new();
        for (index, (_, choice)) in choices.iter().enumerate() {
            wanted.push_str(match choices.len() - index {
                _ if index == 0 => "",
                1 => " or ",
                _ => ", ",
            });
            wanted.push_str(&format!("{choice:?}"));
        }
        InvalidArgument::new_err((name, format!("must be {wanted}, not {text:?}")))
    })
}

/// Declares how Python sees an enum: as the plain texts of a `Literal`.
macro_rules! literal {
    ($type:ty { $($variant:ident = $value:literal,)* }) => {
        const _: () = {
            const ALL: &[($type, &str)] = &[$((<$type>::$variant, $value)),*];

            impl $crate::record::field::Field for $type {
                fn from_python(value: &pyo3::Bound<'_, pyo3::PyAny>, name: &'static str) -> pyo3::PyResult<Self> {
                    $crate::record::word::choice(value, name, ALL)
                }

                fn to_python<'py>(&self, py: pyo3::Python<'py>) -> pyo3::PyResult<pyo3::Bound<'py, pyo3::PyAny>> {
                    let (_, text) = ALL.iter().find(|(word, _)| word == self).expect("every variant is declared");
                    Ok(pyo3::types::PyString::intern(py, text).into_any())
                }
            }
        };
    };
}
pub(crate) use literal;
