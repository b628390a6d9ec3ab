// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

const (
	backupFormat = 1
	manifestName = "backup.json"
	maxBackup    = 64 << 20
)

// Manifest says what is in a backup. It is the first file of the archive.
type Manifest struct {
	Format int               `json:"format"`
	Made   time.Time         `json:"made"`
	Of     string            `json:"of"` // the place
	SHA256 map[string]string `json:"sha256"`
}

// Pack makes an archive of a CA's files: tar, to be sealed.
func Pack(files ca.Files, of string, now time.Time) ([]byte, error) {
	m := Manifest{Format: backupFormat, Made: now.UTC(), Of: of, SHA256: map[string]string{}}
	for name, text := range files {
		m.SHA256[name] = sum(text)
	}
	head, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	add := func(name string, text []byte) error {
		err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text)), ModTime: now, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = archive.Write(text)
		}
		return err
	}
	err = add(manifestName, head)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err = errors.Join(err, add(name, files[name]))
	}
	return out.Bytes(), errors.Join(err, archive.Close())
}

// Unpack reads what Pack made, all of it and nothing else.
func Unpack(archive []byte) (m Manifest, files ca.Files, err error) {
	files = ca.Files{}
	in := tar.NewReader(bytes.NewReader(archive))
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, nil, fmt.Errorf("not a backup: %v", err)
		}
		text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
		if err != nil || len(text) > maxFile {
			return m, nil, errors.Join(err, fmt.Errorf("not a backup: %q is cut off, or too long", head.Name))
		}
		if head.Name != manifestName {
			files[head.Name] = text
			continue
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return m, nil, fmt.Errorf("not a backup: %s: %v", manifestName, err)
		}
	}
	return m, files, m.check(files)
}

func (m Manifest) check(files ca.Files) error {
	if m.Format != backupFormat {
		return fmt.Errorf("a backup of format %d: this version reads format %d", m.Format, backupFormat)
	}
	for name, want := range m.SHA256 {
		text, there := files[name]
		switch {
		case !there:
			return fmt.Errorf("the backup is incomplete: %s is missing", name)
		case sum(text) != want:
			return fmt.Errorf("the backup is damaged: %s is not what was put into it", name)
		}
	}
	for name := range files {
		if _, listed := m.SHA256[name]; !listed || !plainName(name) {
			return fmt.Errorf("the backup holds %q, which its list does not, or which is no name of a file", name)
		}
	}
	return nil
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// plainName reports whether name is that of a file within a directory.
func plainName(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\\x00")
}
