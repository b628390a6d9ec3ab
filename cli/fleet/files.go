// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// collected are where the directory nodes of a bug report has dumps: below the name of a node,
// and on Kubernetes of its pod.
var collected = []string{"*/config_dump.json", "*/*/config_dump.json"}

// Files reads nodes from files that hold their /config_dump: those of a directory whose
// names end in .json, those of a bug report's directory nodes, or one file. What is not
// understood is a node that does not answer.
func Files(path string) ([]Node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		names = nil
		for _, where := range append([]string{"*.json"}, collected...) {
			found, err := filepath.Glob(filepath.Join(path, where))
			if err != nil {
				return nil, err
			}
			if names = found; len(names) > 0 {
				break
			}
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s holds no file whose name ends in .json", path)
		}
	}
	var nodes []Node
	for _, name := range names {
		nodes = append(nodes, readNode(name))
	}
	return withoutAgain(nodes), nil
}

func readNode(name string) Node {
	n := Node{Target: Target{Name: name}, File: true, asked: name}
	info, err := os.Stat(name)
	if err != nil {
		n.Problem = err.Error()
		return n
	}
	if info.Size() > maxAnswer {
		n.Problem = fmt.Sprintf("it is longer than %d bytes", maxAnswer)
		return n
	}
	text, err := os.ReadFile(name)
	if err == nil {
		if err = json.Unmarshal(text, &n.Dump); err != nil {
			err = fmt.Errorf("it is no /config_dump: %v", whatIsWrong(err))
		} else if n.Dump.Config.NodeName == "" {
			err = errors.New("it is no /config_dump of a ztunnel: it names no node")
		}
	}
	if err != nil {
		n.Problem, n.Dump = err.Error(), Dump{}
		return n
	}
	n.Taken = n.Dump.Time // the file's own is when it was copied
	n.Name = n.Dump.Config.NodeName
	return n
}

// whatIsWrong says of JSON that is not understood what a reader of the file sees, too.
func whatIsWrong(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax) && strings.HasPrefix(syntax.Error(), "unexpected end"), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends before its JSON does, as a copy that was broken off")
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("it is JSON, but no object: %s", kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("%s in it is another kind of value, %s", kind.Field, kind.Value)
	}
	return err
}
