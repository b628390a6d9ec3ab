// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// programs writes one for each architecture, and returns their paths.
func programs(t *testing.T, archs ...string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, arch := range archs {
		path := filepath.Join(t.TempDir(), "built-for-"+arch)
		if err := os.WriteFile(path, []byte("program for "+arch), 0o700); err != nil {
			t.Fatal(err)
		}
		files[arch] = path
	}
	return files
}

// write returns the image's archive and digest.
func write(t *testing.T, i Image) ([]byte, string) {
	t.Helper()
	var out bytes.Buffer
	digest, err := i.Write(&out)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), digest
}

func TestTheSameProgramsGiveTheSameBytesWheneverTheyWereBuilt(t *testing.T) {
	image := Image{Name: "localhost/web:1", Program: "web", Files: programs(t, "arm64", "amd64"), Labels: map[string]string{"b": "2", "a": "1"}}
	first, digest := write(t, image)
	for _, path := range image.Files {
		if err := errors.Join(os.Chtimes(path, time.Time{}, time.Unix(1, 0)), os.Chmod(path, 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	second, again := write(t, image)
	if digest != again || !bytes.Equal(first, second) {
		t.Errorf("digests %s and %s, of %d and %d bytes", digest, again, len(first), len(second))
	}
	image.Files = programs(t, "amd64", "arm64")
	if err := os.WriteFile(image.Files["arm64"], []byte("another"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, other := write(t, image); other == digest {
		t.Error("another program has the same digest")
	}
}

func TestAnArchiveHoldsTheProgramForEachArchitecture(t *testing.T) {
	image := Image{Name: "registry.example/web:v1", Program: "web", Files: programs(t, "amd64", "arm64"), User: "65532:65532"}
	archive, name := write(t, image)
	layout := layout(readTar(t, archive))

	var top, platforms index
	layout.read(t, "index.json", &top)
	if len(top.Manifests) != 1 || top.Manifests[0].Digest != name || top.Manifests[0].Annotations["io.containerd.image.name"] != image.Name {
		t.Fatalf("index.json: %+v, want one entry, %s named %s", top, name, image.Name)
	}
	layout.follow(t, top.Manifests[0], &platforms)
	for i, arch := range []string{"amd64", "arm64"} {
		d := platforms.Manifests[i]
		if *d.Platform != (platform{arch, "linux"}) {
			t.Errorf("image %d is for %+v, want %s", i, *d.Platform, arch)
		}
		var m manifest
		var c config
		layout.follow(t, d, &m)
		layout.follow(t, m.Config, &c)
		if c.Architecture != arch || c.Config.User != image.User || !slices.Equal(c.Config.Entrypoint, []string{"/bin/web"}) {
			t.Errorf("configuration for %s: %+v", arch, c)
		}
		plain := unzip(t, layout.blob(t, m.Layers[0]))
		if c.RootFS.DiffIDs[0] != digest(plain) {
			t.Errorf("for %s the configuration names another layer than the manifest", arch)
		}
		if got := readTar(t, plain)["bin/web"]; string(got) != "program for "+arch {
			t.Errorf("/bin/web for %s is %q", arch, got)
		}
	}
}

func TestAProgramThatIsNotThereGivesNoImage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := Image{Name: "localhost/web:1", Program: "web", Files: map[string]string{"amd64": missing}}.Write(io.Discard)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v, want an error that names %s", err, missing)
	}
}

// layout is an archive's files by name.
type layout map[string][]byte

func (l layout) read(t *testing.T, name string, object any) {
	t.Helper()
	if err := json.Unmarshal(l[name], object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// blob returns what d names, whose digest and size must be as d says.
func (l layout) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	content := l["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if digest(content) != d.Digest || len(content) != d.Size {
		t.Fatalf("the blob of %+v has %d bytes and digest %s", d, len(content), digest(content))
	}
	return content
}

func (l layout) follow(t *testing.T, d descriptor, object any) {
	t.Helper()
	if err := json.Unmarshal(l.blob(t, d), object); err != nil {
		t.Fatalf("%+v: %v", d, err)
	}
}

func readTar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for in := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func unzip(t *testing.T, compressed []byte) []byte {
	t.Helper()
	in, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
