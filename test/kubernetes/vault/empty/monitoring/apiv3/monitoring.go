// SPDX-License-Identifier: Apache-2.0

// Package monitoring is empty in this build.
package monitoring

import (
	"context"
	"errors"
)

func NewMetricClient(context.Context, any) (any, error) {
	return nil, errors.New("it is not in this build")
}
