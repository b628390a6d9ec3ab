// SPDX-License-Identifier: Apache-2.0

package aead

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// vector is one test in Wycheproof's form.
type vector struct {
	ID     int    `json:"tcId"`
	Key    octets `json:"key"`
	IV     octets `json:"iv"`
	AAD    octets `json:"aad"`
	Msg    octets `json:"msg"`
	CT     octets `json:"ct"`
	Tag    octets `json:"tag"`
	Result string `json:"result"`
}

// octets is hex in JSON.
type octets []byte

func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.AppendDecode(nil, text)
	return err
}

func unhex(t *testing.T, s string) octets {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// standard are the test cases of the GCM specification that SP 800-38D refers to
// (McGrew and Viega, appendix B), by their numbers, and some of NIST's CAVP
// (gcmEncryptExtIV128.rsp and …256.rsp), from 101 on: key, IV, text, additional
// data, ciphertext, tag.
var standard = [][6]string{
	1: {
		"00000000000000000000000000000000", "000000000000000000000000", "", "",
		"", "58e2fccefa7e3061367f1d57a4e7455a",
	},
	2: {
		"00000000000000000000000000000000", "000000000000000000000000", "00000000000000000000000000000000", "",
		"0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf",
	},
	3: {
		"feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
			"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255", "",
		"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e" +
			"21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985", "4d5c2af327cd64a62cf35abd2ba6fab4",
	},
	4: {
		"feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
			"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
		"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e" +
			"21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091", "5bc94fbc3221a5db94fae95ae7121a47",
	},
	13: {
		"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "",
		"", "530f8afbc74536b9a963b4f1c4cb738b",
	},
	14: {
		"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000",
		"00000000000000000000000000000000", "",
		"cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919",
	},
	15: {
		"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
			"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255", "",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" +
			"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad", "b094dac5d93471bdec1a502270e3cc6c",
	},
	16: {
		"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72" +
			"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa" +
			"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662", "76fc6ece0f4e1768cddf8853bb2d551b",
	},
	101: {
		"11754cd72aec309bf52f7687212e8957", "3c819d9a9bed087615030b65", "", "",
		"", "250327c674aaf477aef2675748cf6971",
	},
	102: {
		"7fddb57453c241d03efbed3ac44e371c", "ee283a3fc75575e33efd4887", "d5de42b461646c255c87bd2962d3b9a2", "",
		"2ccda4a5415cb91e135c2a0f78c9b2fd", "b36d1df9b9d5e596f83e8b7f52971cb3",
	},
	103: {
		"fe9bb47deb3a61e423c2231841cfd1fb", "4d328eb776f500a2f7fb47aa", "f1cc3818e421876bb6b8bbd6c9", "",
		"b88c5c1977b35b517b0aeae967", "43fd4727fe5cdb4b5b42818dea7ef8c9",
	},
	104: {
		"c939cc13397c1d37de6ae0e1cb7c423c", "b3d8cc017cbb89b39e0f67e2", "c3b3c41f113a31b73d9a5cd432103069",
		"24825602bd12a984e0092d3e448eda5f",
		"93fe7d9e9bfd10348a5606e5cafa7354", "0032a1dc85f1c9786925a2e71d8272dd",
	},
	105: {
		"b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4", "516c33929df5a3284ff463d7", "", "",
		"", "bdc1ac884d332457a1d2664f168c76f0",
	},
	106: {
		"31bdadd96698c204aa9ce1448ea94ae1fb4a9a0b3c9d773b51bb1822666b8f22", "0d18e06c7c725ac9e362e1ce",
		"2db5168e932556f8089a0622981d017d", "",
		"fa4362189661d163fcd6a56d8bf0405a", "d636ac1bbedd5cc3ee727dc2ab4a9489",
	},
	107: {
		"92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b", "ac93a1a6145299bde902f21a",
		"2d71bcfa914e4ac045b2aa60955fad24", "1e0889016f67601c8ebea4943bc23ad6",
		"8995ae2e6df3dbf96fac7b7137bae67f", "eca5aa77d51d4a0a14d9c51e1da474ab",
	},
}

func standardVectors(t *testing.T) (vectors []vector) {
	t.Helper()
	for id, v := range standard {
		if v[0] == "" {
			continue
		}
		vectors = append(vectors, vector{
			ID: id, Key: unhex(t, v[0]), IV: unhex(t, v[1]), Msg: unhex(t, v[2]), AAD: unhex(t, v[3]),
			CT: unhex(t, v[4]), Tag: unhex(t, v[5]), Result: "valid",
		})
	}
	return vectors
}

func wycheproofVectors(t *testing.T) (vectors []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/wycheproof.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct{ Tests []vector }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.TestGroups {
		vectors = append(vectors, group.Tests...)
	}
	if len(vectors) == 0 || len(vectors) != file.NumberOfTests {
		t.Fatalf("%d vectors, want %d", len(vectors), file.NumberOfTests)
	}
	return vectors
}

func TestVectorsOfTheSpecificationAndCAVP(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		for _, v := range standardVectors(t) {
			v.check(t, kernel)
		}
	})
}

func TestVectorsOfWycheproof(t *testing.T) {
	eachImplementation(t, func(t *testing.T, kernel kernel) {
		wrapping := 0
		for _, v := range wycheproofVectors(t) {
			if len(v.IV) == nonceSize {
				v.check(t, kernel)
			} else if wrapping++; kernel != none {
				v.checkJ0(t, kernel)
			}
		}
		if wrapping != 24 {
			t.Errorf("%d vectors wrap the counter, want 24", wrapping)
		}
	})
}

// The reference is right too, where it stands in for vectors.
func TestReferenceAgreesWithTheVectors(t *testing.T) {
	for _, v := range slices.Concat(standardVectors(t), wycheproofVectors(t)) {
		if v.Result != "valid" {
			continue
		}
		ref := newReference(t, v.Key)
		ct, tag := ref.seal(ref.j0(v.IV), v.Msg, v.AAD)
		if !bytes.Equal(ct, v.CT) || !bytes.Equal(tag[:], v.Tag) {
			t.Errorf("vector %d: got %x %x, want %x %x", v.ID, ct, tag, v.CT, v.Tag)
		}
	}
}

func (v vector) check(t *testing.T, kernel kernel) {
	t.Helper()
	g := open(t, kernel, v.Key)
	sealed := slices.Concat(v.CT, v.Tag)
	got, err := g.Open(nil, v.IV, sealed, v.AAD)
	if v.Result != "valid" {
		if err != ErrOpen || got != nil {
			t.Errorf("vector %d: opened %x, %v; want %v", v.ID, got, err, ErrOpen)
		}
		return
	}
	if err != nil || !bytes.Equal(got, v.Msg) {
		t.Errorf("vector %d: opened %x, %v; want %x", v.ID, got, err, v.Msg)
	}
	if got := g.Seal(nil, v.IV, v.Msg, v.AAD); !bytes.Equal(got, sealed) {
		t.Errorf("vector %d: sealed %x, want %x", v.ID, got, sealed)
	}
}

// checkJ0 is check for an IV of another length, below the API.
func (v vector) checkJ0(t *testing.T, kernel kernel) {
	t.Helper()
	ct, tag := sealJ0(kernel, v.Key, newReference(t, v.Key).j0(v.IV), v.Msg, v.AAD)
	if !bytes.Equal(ct, v.CT) || !bytes.Equal(tag[:], v.Tag) {
		t.Errorf("vector %d: got %x %x, want %x %x", v.ID, ct, tag, v.CT, v.Tag)
	}
}
