// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The paths of the four verbs; each is a POST.
const (
	pathAdd   = "/v1/add"
	pathDel   = "/v1/del"
	pathCheck = "/v1/check"
	pathGC    = "/v1/gc"
)

type gcRequest struct {
	Network string       `json:"network"`
	Valid   []Attachment `json:"valid"`
}

func (g gcRequest) validate() error {
	var errs []error
	if !containerID.MatchString(g.Network) {
		errs = append(errs, fmt.Errorf("network: want a network name, got %.80q", g.Network))
	}
	for i, a := range g.Valid {
		if !containerID.MatchString(a.ContainerID) {
			errs = append(errs, fmt.Errorf("valid[%d].containerID: want a container id, got %.80q", i, a.ContainerID))
		}
		if !ifName(a.IfName) {
			errs = append(errs, fmt.Errorf("valid[%d].ifName: want an interface name, got %.80q", i, a.IfName))
		}
	}
	return errors.Join(errs...)
}

// failure is the body of every status but 200.
type failure struct {
	Error string `json:"error"`
}

// decode reads exactly one JSON value into v. Errors name the field, as it is
// spelt on the wire.
func decode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return explain(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the JSON object")
	}
	return nil
}

func explain(err error) error {
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%s: want %v, got %s", wrongType.Field, wrongType.Type, wrongType.Value)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("not a whole JSON object")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}
