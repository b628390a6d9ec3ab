// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"os"
	"testing"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }
