// SPDX-License-Identifier: Apache-2.0

// Package mountinfo reads what is mounted where, proc_pid_mountinfo(5).
package mountinfo

import (
	"os"
	"strings"
)

// Self is the mounts that this process sees.
const Self = "/proc/self/mountinfo"

// Mount is one mount. Root is the directory of the file system that it shows at
// Point, or the name of a namespace.
type Mount struct{ Root, Point, Type string }

// Read returns the mounts in a file of proc, such as Self, in its order.
func Read(path string) ([]Mount, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var mounts []Mount
	for line := range strings.Lines(string(text)) {
		if m, ok := parse(line); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts, nil
}

// OfType returns the mounts of a type that this process sees.
func OfType(fsType string) ([]Mount, error) {
	all, err := Read(Self)
	var found []Mount
	for _, m := range all {
		if m.Type == fsType {
			found = append(found, m)
		}
	}
	return found, err
}

// parse reads a line: field 4 is the root, field 5 the mount point, and the type
// follows a lone hyphen behind any number of fields.
func parse(line string) (Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields := strings.Fields(before)
	fsType, _, more := strings.Cut(after, " ")
	if !ok || !more || len(fields) < 6 {
		return Mount{}, false
	}
	return Mount{unescape.Replace(fields[3]), unescape.Replace(fields[4]), fsType}, true
}

// unescape reads what stands for the four characters that would end a field.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
