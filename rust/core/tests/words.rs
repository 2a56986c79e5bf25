//! Words: ids, digests, the strict reader, channel names, signatures.

use meshos_core::codec::{DecodeError, Fault, Put, Reader};
use meshos_core::digest::{self, Context, Digest};
use meshos_core::id::{EntityId, InvalidKey};
use meshos_core::identity::{self, IdentityError, Keypair};
use meshos_core::name::{ChannelName, NameError};
use meshos_core::testing::samples::keypair;
use proptest::prelude::*;

mod ids {
    use super::*;

    #[test]
    fn a_handle_is_the_first_8_bytes_of_a_derived_key() {
        let id = keypair(0x42).entity_id();
        let expected = |context| {
            let derived = blake3::derive_key(context, id.as_bytes());
            u64::from_le_bytes(derived[..8].try_into().expect("8 bytes"))
        };
        assert_eq!(id.origin().get(), expected("meshos 2026 origin hash v1"));
        assert_eq!(id.node_id().get(), expected("meshos 2026 node id v1"));
    }

    #[test]
    fn an_id_shows_its_first_8_bytes_and_hands_out_all() {
        let id = keypair(0x42).entity_id();
        assert_eq!(id.to_string(), "2152f8d19b791d24…");
        assert_eq!(format!("{id:?}"), "2152f8d19b791d24…");
        assert_eq!(
            id.to_hex(),
            "2152f8d19b791d24453242e15f2eab6cb7cffa7b6a5ed30097960e069881db12"
        );
        assert_eq!(id.origin().to_string(), format!("{:016x}", id.origin().get()));
    }

    #[test]
    fn a_key_for_which_anybody_can_sign_is_refused() {
        let of_small_order = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        ];
        for text in of_small_order {
            assert_eq!(EntityId::checked(bytes(text)), Err(InvalidKey), "{text}");
        }
    }

    #[test]
    fn a_second_encoding_of_one_point_is_refused() {
        let mut refused = 0;
        for low in 0xed..=0xff {
            for sign in [0x7f, 0xff] {
                let mut raw = [0xff; 32];
                (raw[0], raw[31]) = (low, sign);
                assert_eq!(EntityId::checked(raw), Err(InvalidKey));
                refused += 1;
            }
        }
        assert_eq!(refused, 38);
    }

    #[test]
    fn a_point_off_the_curve_is_refused_and_a_key_accepted() {
        let mut raw = [0; 32];
        raw[0] = 2;
        assert_eq!(EntityId::checked(raw), Err(InvalidKey));
        let id = keypair(7).entity_id();
        assert_eq!(EntityId::checked(*id.as_bytes()), Ok(id));
    }

    fn bytes(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
    }
}

mod digests {
    use super::*;

    #[test]
    fn formulas_are_plain_derived_keys() {
        let (parent, child) = (keypair(1).entity_id(), keypair(2).entity_id());
        let head = Digest::from_bytes([3; 32]);
        let cases = [
            (
                digest::genesis(&parent, &head),
                "meshos 2026 chain genesis v1",
                [parent.as_bytes().as_slice(), head.as_bytes()].concat(),
            ),
            (
                digest::event(&head, &[4; 32], b"payload"),
                "meshos 2026 chain event v1",
                [head.as_bytes().as_slice(), &[4; 32], b"payload"].concat(),
            ),
            (
                digest::fork_lineage(&parent, 258, &head, &child),
                "meshos 2026 fork v1",
                [
                    parent.as_bytes().as_slice(),
                    &[2, 1, 0, 0, 0, 0, 0, 0],
                    head.as_bytes(),
                    child.as_bytes(),
                ]
                .concat(),
            ),
            (
                digest::derive(Context::Checkpoint, &[b"a", b"", b"bc"]),
                "meshos 2026 checkpoint v1",
                b"abc".to_vec(),
            ),
        ];
        for (found, context, input) in cases {
            assert_eq!(found.as_bytes(), &blake3::derive_key(context, &input), "{context}");
        }
    }

    #[test]
    fn every_payload_length_around_a_boundary_gives_the_plain_formula() {
        let bytes = vec![0x5a; 70_000];
        let boundaries = [0, 64, 960, 1024, 2048, 16_320, 16_384, 32_768, 65_536];
        for length in boundaries
            .into_iter()
            .flat_map(|at: usize| at.saturating_sub(2)..at + 3)
        {
            let payload = &bytes[..length];
            let input = [&[9; 32], &[8; 32], payload].concat();
            let found = digest::event(&Digest::from_bytes([9; 32]), &[8; 32], payload);
            assert_eq!(
                found.as_bytes(),
                &blake3::derive_key("meshos 2026 chain event v1", &input),
                "{length}"
            );
        }
    }

    #[test]
    fn the_head_is_the_first_8_bytes_little_endian() {
        let mut raw = [0xff; 32];
        raw[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Digest::from_bytes(raw).head8(), 0x0807_0605_0403_0201);
        assert_eq!(Digest::from_bytes(raw).to_string().len(), 64);
    }
}

mod reading {
    use super::*;

    #[test]
    fn what_is_put_is_read_back_in_order() {
        let mut out = Vec::new();
        out.put_u8(1);
        out.put_u16(0x0203);
        out.put_u32(0x0405_0607);
        out.put_u64(0x0809_0a0b_0c0d_0e0f);
        out.put_str_u16("né");
        out.put_count_u32(2);
        out.put(&[7, 8]);
        assert_eq!(out[..7], [1, 3, 2, 7, 6, 5, 4]);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(0x0203));
        assert_eq!(reader.u32(), Ok(0x0405_0607));
        assert_eq!(reader.u64(), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(reader.str_u16(), Ok("né"));
        assert_eq!(reader.count_u32(1), Ok(2));
        assert_eq!(reader.array(), Ok([7, 8]));
        assert_eq!(reader.expect_end(), Ok(()));
    }

    #[test]
    fn a_fault_names_the_offset_in_the_whole_input_and_changes_nothing() {
        let mut reader = Reader::with_base(&[1, 2, 3], 100);
        assert_eq!(reader.u8(), Ok(1));
        let fault = DecodeError {
            offset: 101,
            fault: Fault::Truncated { needed: 6 },
        };
        assert_eq!(reader.u64(), Err(fault));
        assert_eq!(reader.u16(), Ok(0x0302));
        assert_eq!((reader.offset(), reader.remaining()), (103, 0));
        assert_eq!(fault.to_string(), "byte 101: 6 more bytes needed");
    }

    #[test]
    fn lengths_near_the_ends_of_their_types_are_refused() {
        for length in [
            4,
            1 << 16,
            u64::from(u32::MAX),
            1 << 32,
            i64::MAX as u64,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut reader = Reader::new(&[1, 2, 3]);
            let needed = length - 3;
            assert_eq!(
                reader.take_long(length),
                Err(DecodeError {
                    offset: 0,
                    fault: Fault::Truncated { needed }
                })
            );
        }
        for count in [2_u32, 1 << 31, u32::MAX] {
            let mut bytes = count.to_le_bytes().to_vec();
            bytes.extend([0; 30]);
            let refused = Reader::new(&bytes).count_u32(16);
            assert!(
                matches!(
                    refused,
                    Err(DecodeError {
                        offset: 4,
                        fault: Fault::Truncated { .. }
                    })
                ),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_named_where_it_stops_being_text() {
        let bytes = [3, 0, b'a', 0xff, b'b'];
        assert_eq!(
            Reader::new(&bytes).str_u16(),
            Err(DecodeError {
                offset: 3,
                fault: Fault::Utf8
            })
        );
    }

    #[test]
    fn versions_are_told_apart() {
        let read = |byte| Reader::new(&[byte]).version_u8(2).map_err(|error| error.fault);
        assert_eq!(read(0), Err(Fault::Invalid { field: "version" }));
        assert_eq!((read(1), read(2)), (Ok(1), Ok(2)));
        assert_eq!(read(3), Err(Fault::NewerVersion { found: 3, known: 2 }));
    }
}

mod names {
    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        let cases = [
            ("", Err(NameError::Empty)),
            ("a", Ok(())),
            ("sensors/lidar-3/_.x", Ok(())),
            ("...", Ok(())),
            ("a/.hidden", Ok(())),
            ("A", Err(NameError::InvalidChar { at: 0 })),
            ("a b", Err(NameError::InvalidChar { at: 1 })),
            ("aé", Err(NameError::InvalidChar { at: 1 })),
            ("a\0", Err(NameError::InvalidChar { at: 1 })),
            ("/a", Err(NameError::InvalidSegment { at: 0 })),
            ("a/", Err(NameError::InvalidSegment { at: 2 })),
            ("a//b", Err(NameError::InvalidSegment { at: 2 })),
            ("a/./b", Err(NameError::InvalidSegment { at: 2 })),
            ("ab/../c", Err(NameError::InvalidSegment { at: 3 })),
            (".", Err(NameError::InvalidSegment { at: 0 })),
        ];
        for (text, expected) in cases {
            assert_eq!(ChannelName::new(text).map(drop), expected, "{text:?}");
        }
        assert!(ChannelName::new(&"a".repeat(255)).is_ok());
        assert_eq!(
            ChannelName::new(&"a".repeat(256)),
            Err(NameError::TooLong { bytes: 256 })
        );
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let name = |text| ChannelName::new(text).expect("a good name");
        assert!(name("a/b").is_prefix_of(&name("a/b")));
        assert!(name("a/b").is_prefix_of(&name("a/b/c")));
        assert!(!name("a/b").is_prefix_of(&name("a/bc")));
        assert!(!name("a/b/c").is_prefix_of(&name("a/b")));
    }

    #[test]
    fn the_hash_is_the_known_vector() {
        assert_eq!(
            ChannelName::new("sensors/lidar").map(|name| name.hash()),
            Ok(0xec20_e8ac_7fa5_e5d8)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_accepted_as_it_is_or_refused(text in "[a-zA-Z./\\-_é ]{0,12}") {
            if let Ok(name) = ChannelName::new(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(text.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
                prop_assert_eq!(text.to_lowercase(), text);
            }
        }
    }
}

mod identities {
    use super::*;

    #[test]
    fn the_known_seed_has_the_known_key() {
        let pair = keypair(0x42);
        assert_eq!(
            pair.entity_id().to_hex(),
            "2152f8d19b791d24453242e15f2eab6cb7cffa7b6a5ed30097960e069881db12"
        );
        assert_eq!(pair.origin(), pair.entity_id().origin());
        assert_eq!(pair.node_id(), pair.entity_id().node_id());
        assert_eq!(*pair.seed().expect("a full pair"), [0x42; 32]);
    }

    #[test]
    fn the_first_vector_of_rfc_8032_is_met() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let seed = std::array::from_fn(|i| u8::from_str_radix(&seed[2 * i..2 * i + 2], 16).expect("hexadecimal"));
        let pair = Keypair::from_seed(&seed);
        let signature = pair.sign(b"").expect("a full pair");
        assert_eq!(
            pair.entity_id().to_hex(),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert_eq!(signature[..8], [0xe5, 0x56, 0x43, 0x00, 0xc3, 0x60, 0xac, 0x72]);
        assert_eq!(identity::verify(&pair.entity_id(), b"", &signature), Ok(()));
    }

    #[test]
    fn a_public_half_cannot_sign_and_erasing_makes_one() {
        let mut pair = keypair(1);
        let public = Keypair::public_only(pair.entity_id());
        assert_eq!(public.sign(b""), Err(IdentityError::ReadOnly));
        assert_eq!((pair.is_read_only(), public.is_read_only()), (false, true));
        pair.erase();
        pair.erase();
        assert_eq!(pair.sign(b""), Err(IdentityError::ReadOnly));
        assert_eq!(pair.seed().map(drop), Err(IdentityError::ReadOnly));
        assert_eq!(pair.entity_id(), public.entity_id());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!("{:?}", keypair(0xa7));
        assert!(shown.ends_with("can sign)") && !shown.contains("a7a7"), "{shown}");
    }

    #[test]
    fn a_weak_key_verifies_nothing() {
        let mut weak = [0; 32];
        weak[0] = 1;
        let everything = [weak, [0; 32]].concat().try_into().expect("64 bytes");
        let refused = identity::verify(&EntityId::from_bytes(weak), b"any", &everything);
        assert_eq!(refused, Err(IdentityError::InvalidPublicKey));
    }

    #[test]
    fn a_signature_made_malleable_is_refused() {
        // s + l, l the order of the base point: accepted by verifiers that do not reduce.
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let pair = keypair(3);
        let mut signature = pair.sign(b"message").expect("a full pair");
        let mut carry = 0;
        for (byte, added) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + added + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        let refused = identity::verify(&pair.entity_id(), b"message", &signature);
        assert_eq!(refused, Err(IdentityError::InvalidSignature));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_signature_fits_one_key_and_one_message(
            seed: [u8; 32], message: Vec<u8>, flip in 0..512_usize, extra: u8,
        ) {
            let pair = Keypair::from_seed(&seed);
            let id = pair.entity_id();
            let signature = pair.sign(&message).expect("a full pair");
            prop_assert_eq!(identity::verify(&id, &message, &signature), Ok(()));

            let longer = [message.as_slice(), &[extra]].concat();
            prop_assert!(identity::verify(&id, &longer, &signature).is_err());
            let mut flipped = signature;
            flipped[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(identity::verify(&id, &message, &flipped).is_err());
            prop_assert!(identity::verify(&keypair(0x42).entity_id(), &message, &signature).is_err());
        }
    }
}
