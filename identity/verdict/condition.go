// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// conditionType is Istio's.
const conditionType = "ZtunnelAccepted"

var errNoList = errors.New("status.conditions is no list")

// conditions are those of an object, and which of them is of conditionType, or -1.
func conditions(u *unstructured.Unstructured) ([]any, int, error) {
	all, _, err := unstructured.NestedFieldNoCopy(u.Object, "status", "conditions")
	list, isList := all.([]any)
	if err != nil || all != nil && !isList {
		return nil, -1, errNoList
	}
	for i, c := range list {
		if c, ok := c.(map[string]any); ok && c["type"] == conditionType {
			return list, i, nil
		}
	}
	return list, -1, nil
}

// shows reports whether an object's status needs no write: it says v of the object's
// generation; or istiod says something of that generation, whose condition it is where it
// runs. What istiod said of an earlier one is out of date: it may have gone.
func (v verdict) shows(u *unstructured.Unstructured, byIstiod bool) bool {
	list, i, err := conditions(u)
	if err != nil || i < 0 {
		return false
	}
	c := list[i].(map[string]any)
	current := fmt.Sprint(c["observedGeneration"]) == strconv.FormatInt(u.GetGeneration(), 10) // istiod writes a string
	same := c["status"] == string(v.status()) && c["reason"] == v.reason && c["message"] == v.text()
	return current && (same || byIstiod)
}

// writtenByIstiod reports whether istiod wrote an object's condition last.
func writtenByIstiod(u *unstructured.Unstructured) bool {
	for _, f := range u.GetManagedFields() {
		if !strings.HasPrefix(f.Manager, "istio") && f.Manager != "pilot-discovery" || f.FieldsV1 == nil {
			continue
		}
		// The list is one field, or, if its schema says so, each type is.
		raw := f.FieldsV1.GetRawBytes()
		if bytes.Contains(raw, []byte(`"f:conditions"`)) && (!bytes.Contains(raw, []byte(`"k:{`)) || bytes.Contains(raw, []byte(conditionType))) {
			return true
		}
	}
	return false
}

// patch is a merge patch that has an object say v. It keeps the conditions of others, so
// it is good only for the object as it was read.
func (v verdict) patch(u *unstructured.Unstructured, now time.Time) ([]byte, error) {
	list, i, err := conditions(u)
	if err != nil {
		return nil, err
	}
	next := map[string]any{
		"type": conditionType, "status": string(v.status()), "reason": v.reason, "message": v.text(),
		"observedGeneration": u.GetGeneration(), "lastTransitionTime": metav1.NewTime(now).UTC().Format(time.RFC3339),
	}
	list = append([]any{}, list...)
	if i < 0 {
		list = append(list, next)
	} else {
		if was := list[i].(map[string]any); was["status"] == next["status"] && was["lastTransitionTime"] != nil {
			next["lastTransitionTime"] = was["lastTransitionTime"]
		}
		list[i] = next
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": u.GetUID(), "resourceVersion": u.GetResourceVersion()},
		"status":   map[string]any{"conditions": list},
	})
}
