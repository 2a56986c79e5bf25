//! What nodes offer and daemons need.

use std::collections::BTreeSet;

use meshos_core::capability::{CapabilityError, CapabilityFilter, CapabilitySet, GpuVendor, TAG_BYTES_MAX};
use proptest::collection::vec;
use proptest::prelude::*;

fn offered(tags: &[&str]) -> CapabilitySet {
    CapabilitySet::parse(tags, []).expect("good tags")
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn both_separators_make_one_tag() {
    let set = offered(&[
        "software.cuda:12",
        "software.cuda=12",
        "hardware.gpu",
        "url=http://x:80",
    ]);
    assert_eq!(
        set.tags().collect::<Vec<_>>(),
        ["hardware.gpu", "software.cuda=12", "url=http://x:80"]
    );
    assert!(set.has_tag("software.cuda:12") && set.has_tag("software.cuda=12"));
    assert!(!set.has_tag("software.cuda") && !set.has_tag("software.cuda=1"));
    assert_eq!(set, offered(&["url:http://x:80", "hardware.gpu", "software.cuda=12"]));
}

#[test]
fn malformed_and_reserved_tags_are_refused() {
    let parse = |tag: &str| CapabilitySet::parse([tag], []).map(drop);
    for tag in ["", "=x", ":x", "x=", "x:", "="] {
        assert_eq!(parse(tag), Err(CapabilityError::Empty { tag: tag.into() }), "{tag:?}");
    }
    for (tag, at) in [("a b", 1), ("a\n", 1), ("é\u{a0}", 2), ("\0", 0), ("a=\u{85}", 2)] {
        assert_eq!(
            parse(tag),
            Err(CapabilityError::InvalidChar { tag: tag.into(), at }),
            "{tag:?}"
        );
    }
    for tag in ["causal:x", "dataforts=x", "fork-of:abc", "heat:9", "scope:a=b"] {
        assert_eq!(
            parse(tag),
            Err(CapabilityError::Reserved { tag: tag.into() }),
            "{tag:?}"
        );
    }
    for tag in ["causal", "dataforts.blob", "heat.map=1", "x=scope:y"] {
        assert_eq!(parse(tag), Ok(()), "{tag:?}");
    }
    assert_eq!(parse(&"a".repeat(TAG_BYTES_MAX)), Ok(()));
    let too_long = CapabilityError::TooLong {
        bytes: TAG_BYTES_MAX + 1,
        max: TAG_BYTES_MAX,
    };
    assert_eq!(parse(&"a".repeat(TAG_BYTES_MAX + 1)), Err(too_long));
}

#[test]
fn metadata_is_kept_by_key_and_given_once() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let none: [&str; 0] = [];
    let set = CapabilitySet::parse(none, [pair("rack", "7 b"), pair("city", "")]).expect("good metadata");
    assert_eq!(set.metadata().keys().collect::<Vec<_>>(), ["city", "rack"]);
    let twice = CapabilitySet::parse(none, [pair("rack", "7"), pair("rack", "7")]);
    assert_eq!(twice, Err(CapabilityError::DuplicateKey { key: "rack".into() }));
    assert!(CapabilitySet::parse(none, [pair("", "x")]).is_err());
    assert!(CapabilitySet::parse(none, [pair("a b", "x")]).is_err());
    assert!(CapabilitySet::parse(none, [pair("a", &"x".repeat(65_536))]).is_err());
    let merged = set.merge(&CapabilitySet::parse(["t"], [pair("rack", "9")]).expect("good"));
    assert_eq!(merged.metadata()["rack"], "9");
    assert!(merged.has_tag("t"));
}

#[test]
fn the_empty_filter_fits_everywhere() {
    assert!(CapabilityFilter::default().matches(&CapabilitySet::default()));
}

#[test]
fn each_requirement_is_judged_by_its_tags() {
    let gpu = ["hardware.gpu", "hardware.gpu.vendor=nvidia", "hardware.gpu.vram_gb=24"];
    let base = CapabilityFilter::default;
    let vram = |gigabytes| CapabilityFilter {
        min_vram_gb: Some(gigabytes),
        ..base()
    };
    let memory = |gigabytes| CapabilityFilter {
        min_memory_gb: Some(gigabytes),
        ..base()
    };
    let context = CapabilityFilter {
        min_context_length: Some(8_000),
        ..base()
    };
    let vendor = |vendor| CapabilityFilter {
        gpu_vendor: Some(vendor),
        ..base()
    };
    let models = CapabilityFilter {
        require_models: words(&["llama", "qwen"]),
        ..base()
    };
    let tools = CapabilityFilter {
        require_tools: words(&["search"]),
        ..base()
    };
    let modalities = CapabilityFilter {
        require_modalities: words(&["text", "image"]),
        ..base()
    };
    let tags = CapabilityFilter {
        require_tags: words(&["a:1", "b"]),
        ..base()
    };
    let cases: [(CapabilityFilter, &[&str], bool); 34] = [
        (tags.clone(), &["a=1", "b", "c"], true),
        (tags.clone(), &["a=2", "b"], false),
        (tags, &["b"], false),
        (memory(16.0), &["hardware.memory_gb=16"], true),
        (memory(16.0), &["hardware.memory_gb=15.9"], false),
        (memory(0.0), &["hardware.memory_gb=0"], true),
        (memory(0.0), &[], false),
        (memory(1.0), &["hardware.memory_gb=many"], false),
        (memory(1.0), &["hardware.memory_gb=inf"], false),
        (memory(1.0), &["hardware.memory_gb=NaN"], false),
        (memory(1.0), &["hardware.memory_gb=8", "hardware.memory_gb=16"], false),
        (
            CapabilityFilter {
                require_gpu: true,
                ..base()
            },
            &["hardware.gpu"],
            true,
        ),
        (
            CapabilityFilter {
                require_gpu: true,
                ..base()
            },
            &["hardware.gpu=a100"],
            true,
        ),
        (
            CapabilityFilter {
                require_gpu: true,
                ..base()
            },
            &["hardware.gpux"],
            false,
        ),
        (vendor(GpuVendor::Nvidia), &gpu, true),
        (vendor(GpuVendor::Amd), &gpu, false),
        (vendor(GpuVendor::Nvidia), &["hardware.gpu.vendor=nvidia"], false),
        (vram(24.0), &gpu, true),
        (vram(24.1), &gpu, false),
        (
            vram(48.0),
            &["hardware.gpu", "hardware.gpu.0.vram_gb=24", "hardware.gpu.1.vram_gb=24"],
            true,
        ),
        (
            vram(48.0),
            &["hardware.gpu", "hardware.gpu.0.vram_gb=24", "hardware.gpu.x.vram_gb=24"],
            false,
        ),
        (
            vram(24.0),
            &["hardware.gpu", "hardware.gpu.0.vram_gb=24", "hardware.gpu.0.vram_gb=48"],
            false,
        ),
        (
            vram(24.0),
            &["hardware.gpu", "hardware.gpu.vram_gb=8", "hardware.gpu.0.vram_gb=48"],
            false,
        ),
        (vram(24.0), &["hardware.gpu"], false),
        (models.clone(), &["software.model.3.id=qwen"], true),
        (models.clone(), &["software.model.x.id=qwen"], false),
        (models, &["software.model.3.id=other"], false),
        (tools.clone(), &["software.tool.0.tool_id:search"], true),
        (tools, &["software.tool.0.id=search"], false),
        (
            modalities.clone(),
            &["software.model.0.modality=text", "software.model.1.modality=image"],
            true,
        ),
        (modalities, &["software.model.0.modality=text"], false),
        (
            context.clone(),
            &[
                "software.model.0.context_length=4000",
                "software.model.1.context_length=8000",
            ],
            true,
        ),
        (context.clone(), &["software.model.0.context_length=7999"], false),
        (context, &["software.model.0.context_length=-1"], false),
    ];
    for (filter, tags, expected) in cases {
        assert_eq!(filter.matches(&offered(tags)), expected, "{filter:?} on {tags:?}");
        assert_eq!(filter.missing(&offered(tags)).is_empty(), expected);
    }
}

#[test]
fn what_is_missing_is_said_in_words() {
    let filter = CapabilityFilter {
        require_tags: words(&["zone=a"]),
        require_models: words(&["llama", "qwen"]),
        require_modalities: words(&["image"]),
        gpu_vendor: Some(GpuVendor::Amd),
        min_memory_gb: Some(64.0),
        min_vram_gb: Some(8.0),
        min_context_length: Some(10),
        ..CapabilityFilter::default()
    };
    let expected = [
        "the tag zone=a",
        "a model of llama, qwen",
        "a model for image",
        "a GPU",
        "a GPU of amd",
        "64 GB of memory (offered 16)",
        "8 GB of GPU memory (not stated)",
        "a model of 10 tokens",
    ];
    assert_eq!(filter.missing(&offered(&["hardware.memory_gb=16"])), expected);
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let base = CapabilityFilter::default;
    for minimum in [-1.0, f64::NAN, f64::INFINITY] {
        let memory = CapabilityFilter {
            min_memory_gb: Some(minimum),
            ..base()
        };
        let vram = CapabilityFilter {
            min_vram_gb: Some(minimum),
            ..base()
        };
        assert_eq!(
            memory.validate(),
            Err(CapabilityError::InvalidMinimum { field: "min_memory_gb" })
        );
        assert_eq!(
            vram.validate(),
            Err(CapabilityError::InvalidMinimum { field: "min_vram_gb" })
        );
    }
    assert!(
        CapabilityFilter {
            require_tags: words(&["a b"]),
            ..base()
        }
        .validate()
        .is_err()
    );
    assert!(
        CapabilityFilter {
            require_tags: words(&["scope:x"]),
            ..base()
        }
        .validate()
        .is_err()
    );
    assert_eq!(
        CapabilityFilter {
            min_memory_gb: Some(0.0),
            ..base()
        }
        .validate(),
        Ok(())
    );
}

proptest! {
    #[test]
    fn the_canonical_form_does_not_depend_on_order_or_separator(
        tags in vec(("[a-z.]{1,6}", "[a-z0-9:=]{1,5}", any::<bool>()), 0..8),
    ) {
        let write = |flip: bool| {
            tags.iter().map(move |(key, value, colon)| format!("{key}{}{value}", if *colon ^ flip { ':' } else { '=' }))
        };
        let reserved = ["heat", "scope", "causal"];
        prop_assume!(tags.iter().all(|(key, _, _)| !reserved.contains(&key.as_str())));
        let one = CapabilitySet::parse(write(false), []).expect("good tags");
        let other = CapabilitySet::parse(write(true).collect::<Vec<_>>().into_iter().rev(), []).expect("good tags");
        prop_assert_eq!(&one, &other);
        prop_assert!(write(true).all(|tag| one.has_tag(&tag)));
        prop_assert_eq!(CapabilitySet::parse(one.tags(), []), Ok(one.clone()));
        prop_assert_eq!(one.merge(&other), one);
    }

    #[test]
    fn offering_more_tags_never_loses_a_required_one(
        required in vec("[a-c]{1,2}", 0..4), offered in vec("[a-c]{1,2}", 0..6), more in vec("[a-c]{1,2}", 0..4),
    ) {
        let filter =
            CapabilityFilter { require_tags: required.into_iter().collect(), ..CapabilityFilter::default() };
        let less = CapabilitySet::parse(offered, []).expect("good tags");
        let more = less.merge(&CapabilitySet::parse(more, []).expect("good tags"));
        prop_assert!(!filter.matches(&less) || filter.matches(&more));
    }
}
