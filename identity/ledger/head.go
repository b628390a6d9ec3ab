// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/culvert-mesh/culvert/flock"
)

// State is how a process that keeps a chain is.
type State string

// States of a head.
const (
	StateRunning State = "running"
	StateFailing State = "failing" // lines cannot be written
	StateClosed  State = "closed"
)

// headSlot is the size of each of the two halves of a head file. They are written in
// turn, in place: that takes no room on a full disk, and one of them is whole if the
// machine stops amid the other.
const headSlot = 4096

// head is the file that says how much of a chain is on disk: what it names must be there.
// Its lock keeps a second process of the same name away.
type head struct {
	file *os.File
	next int        // slot
	said Checkpoint // last
}

// openHead locks the head of a chain, and returns what it says: the zero Checkpoint if it
// is new, or if no slot can be read.
func openHead(path string) (*head, Checkpoint, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	if err := flock.Try(file); err != nil {
		defer file.Close()
		if errors.Is(err, flock.ErrHeld) {
			return nil, Checkpoint{}, fmt.Errorf("%s is locked by %s: two processes of one name cannot share a directory", path, flock.Holder(file))
		}
		return nil, Checkpoint{}, fmt.Errorf("lock %s: %v", path, err)
	}
	h := &head{file: file}
	slots, _ := readSlots(file)
	var youngest Checkpoint
	for i, slot := range slots {
		if slot != nil && slot.after(youngest) {
			youngest, h.next = *slot, 1-i
		}
	}
	h.said = youngest
	return h, youngest, nil
}

// after reports whether c was written after other, which may be zero.
func (c Checkpoint) after(other Checkpoint) bool {
	return c.Seq > other.Seq || c.Seq == other.Seq && c.Time.After(other.Time)
}

// write puts a checkpoint into the older slot.
func (h *head) write(c Checkpoint) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	slot := make([]byte, headSlot)
	if copy(slot, append(text, '\n')) == headSlot {
		return fmt.Errorf("the head is longer than %d bytes", headSlot)
	}
	if _, err := h.file.WriteAt(slot, int64(h.next)*headSlot); err != nil {
		return err
	}
	h.next, h.said = 1-h.next, c
	return h.file.Sync()
}

func (h *head) close() { h.file.Close() }

// readSlots returns both halves of a head; nil for one that is empty. The error names a
// slot that holds something else than what write puts there, to the byte.
func readSlots(in io.ReaderAt) (slots [2]*Checkpoint, err error) {
	for i := range slots {
		slot := make([]byte, headSlot)
		n, _ := in.ReadAt(slot, int64(i)*headSlot)
		slot = slot[:n]
		if len(bytes.Trim(slot, "\x00")) == 0 {
			continue
		}
		c, problem := readSlot(slot)
		if problem != nil {
			err = errors.Join(err, fmt.Errorf("slot %d: %w", i, problem))
			continue
		}
		slots[i] = &c
	}
	return slots, err
}

func readSlot(slot []byte) (c Checkpoint, err error) {
	text, padding, whole := bytes.Cut(slot, []byte("\n"))
	if !whole || len(slot) != headSlot || len(bytes.Trim(padding, "\x00")) > 0 {
		return Checkpoint{}, errors.New("it is not whole: the machine stopped while it was written, or it was changed")
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return Checkpoint{}, fmt.Errorf("it is no checkpoint: %v", err)
	}
	if again, err := json.Marshal(c); err != nil || !bytes.Equal(again, text) {
		return Checkpoint{}, errors.New("it is not as a ledger writes it")
	}
	return c, nil
}
