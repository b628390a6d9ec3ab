// SPDX-License-Identifier: Apache-2.0

// Package oci writes container images as OCI archives, out of static programs and nothing
// else. The same programs always give the same bytes, and so the same digest: no time, no
// user and no order of a file system gets into them.
//
// An archive is a tar of the image layout of
// https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md. Its one entry
// is an index of the image for each architecture, as registries keep it.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// Image is one program, for one or more architectures.
type Image struct {
	// Name is the reference by which the image is pulled, "registry/path:tag". Required.
	Name string

	// Program is the base name of the program. It stands in /bin and is the entry point.
	// Required.
	Program string

	// Files are the paths of the program by architecture, as Go names them: "amd64",
	// "arm64". Required.
	Files map[string]string

	// User is the numeric user and group, "65532:65532". Default: root.
	User string

	// Labels are org.opencontainers.image.* and others. Default: none.
	Labels map[string]string
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor is how one part of an image names another.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type config struct {
	platform
	Config struct {
		User       string            `json:"User,omitempty"`
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Labels     map[string]string `json:"Labels,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// Write writes the archive and returns the image's digest, "sha256:…": that of its index,
// by which it can be pulled.
func (i Image) Write(w io.Writer) (string, error) {
	a := &archive{out: tar.NewWriter(w), written: make(map[string]bool)}
	a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	platforms := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, arch := range slices.Sorted(maps.Keys(i.Files)) {
		found, err := i.writePlatform(a, platform{arch, "linux"})
		if err != nil {
			return "", err
		}
		platforms.Manifests = append(platforms.Manifests, found)
	}
	image := a.object(typeIndex, platforms)
	image.Annotations = map[string]string{"io.containerd.image.name": i.Name} // what ctr images import calls it
	text, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{image}})
	if err != nil {
		return "", err
	}
	a.file("index.json", text)
	if a.err == nil {
		a.err = a.out.Close()
	}
	if a.err != nil {
		return "", fmt.Errorf("write image %s: %w", i.Name, a.err)
	}
	return image.Digest, nil
}

func (i Image) writePlatform(a *archive, p platform) (descriptor, error) {
	program, err := os.ReadFile(i.Files[p.Architecture])
	if err != nil {
		return descriptor{}, err
	}
	diff, layer, err := makeLayer(i.Program, program)
	if err != nil {
		return descriptor{}, err
	}
	c := config{platform: p}
	c.Config.User = i.User
	c.Config.Env = []string{"PATH=/bin"}
	c.Config.Entrypoint = []string{"/bin/" + i.Program}
	c.Config.Labels = i.Labels
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{digest(diff)}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest,
		Config: a.object(typeConfig, c), Layers: []descriptor{a.blob(typeLayer, layer)}}
	d := a.object(typeManifest, m)
	d.Platform = &p
	return d, nil
}

// makeLayer returns a tar of the program in /bin, plain and compressed.
func makeLayer(name string, program []byte) (plain, compressed []byte, err error) {
	var layer, small bytes.Buffer
	out := tar.NewWriter(&layer)
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}); err != nil {
		return nil, nil, err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + name, Mode: 0o755, Size: int64(len(program))}
	if err := out.WriteHeader(header); err != nil {
		return nil, nil, err
	}
	if _, err := out.Write(program); err != nil {
		return nil, nil, err
	}
	if err := out.Close(); err != nil {
		return nil, nil, err
	}
	zip := gzip.NewWriter(&small)
	if _, err := zip.Write(layer.Bytes()); err != nil {
		return nil, nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, nil, err
	}
	return layer.Bytes(), small.Bytes(), nil
}

// archive is an image layout as it is being written, until an error.
type archive struct {
	out     *tar.Writer
	written map[string]bool // blobs by digest: two images may share one
	err     error
}

// object writes the JSON of an object as a blob.
func (a *archive) object(mediaType string, object any) descriptor {
	text, err := json.Marshal(object)
	if err != nil && a.err == nil {
		a.err = err
	}
	return a.blob(mediaType, text)
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	if !a.written[d.Digest] {
		a.written[d.Digest] = true
		a.file("blobs/sha256/"+d.Digest[len("sha256:"):], content)
	}
	return d
}

func (a *archive) file(name string, content []byte) {
	if a.err == nil {
		a.err = a.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
	}
	if a.err == nil {
		_, a.err = a.out.Write(content)
	}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
