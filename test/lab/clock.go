// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// sinceWall is what time.Now adds to the kernel's seconds: from 1885, where Go's clock
// begins, to 1970.
const sinceWall = 2682288000

// Ahead makes a ztunnel whose clock is ahead of the machine's, and returns its path for
// ZtunnelOptions.Program. A clock cannot be set for one process, and to build it with
// another package time takes minutes: so in a copy of the program time.Now adds more. What
// it measures and waits for is as it was.
func (l *Lab) Ahead(by time.Duration) (string, error) {
	program, err := os.ReadFile(l.program("ztunnel"))
	if err != nil {
		return "", err
	}
	code, err := codeOf(program, "time.Now")
	if err != nil {
		return "", err
	}
	was := binary.LittleEndian.AppendUint32(nil, sinceWall)
	if n := bytes.Count(code, was); n != 1 {
		return "", fmt.Errorf("time.Now has its constant %d times, want once: it is compiled otherwise than for linux/amd64 by Go 1.27", n)
	}
	binary.LittleEndian.PutUint32(code[bytes.Index(code, was):], sinceWall+uint32(by.Seconds()))
	path := filepath.Join(l.run.dir, "ztunnel-ahead")
	return path, os.WriteFile(path, program, 0o755)
}

// codeOf is the part of a program that is a function, to be written to.
func codeOf(program []byte, name string) ([]byte, error) {
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}
	symbols, err := file.Symbols()
	if err != nil {
		return nil, err
	}
	for _, s := range symbols {
		if s.Name != name {
			continue
		}
		section := file.Sections[s.Section]
		at := s.Value - section.Addr + section.Offset
		return program[at : at+s.Size], nil
	}
	return nil, fmt.Errorf("the program has no function %s", name)
}
