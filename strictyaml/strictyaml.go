// SPDX-License-Identifier: Apache-2.0

// Package strictyaml reads files of operators in which each word counts: a part that is not
// understood, or would be dropped, is an error.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// Unmarshal decodes a YAML text of one document by the json tags of into. It is an error if
// there is a second document, a key that is there twice, or one that into has not exactly as
// it is spelled. An empty text leaves into as it is.
func Unmarshal(text []byte, into any) error {
	raw, err := kyaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	if err := single(text); err != nil {
		return err
	}
	strict, err := json.UnmarshalStrict(raw, into)
	return errors.Join(append(strict, err)...)
}

// single is an error if there is anything behind the first document.
func single(text []byte) error {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	if err := documents.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := documents.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: there is a second document (---), want one", second.Line)
	}
	return nil
}
