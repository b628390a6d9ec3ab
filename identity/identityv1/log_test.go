// SPDX-License-Identifier: Apache-2.0

package identityv1

import (
	"bytes"
	"log"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/grpclog"
)

func TestErrorsOfGRPCGoToTheLogOfTheProgram(t *testing.T) {
	var text bytes.Buffer
	log.SetOutput(&text)
	defer log.SetOutput(os.Stderr)
	grpclog.Warning("not this")
	grpclog.Error("but this")
	if got := text.String(); !strings.Contains(got, "grpc: ") || !strings.Contains(got, "but this") || strings.Contains(got, "not this") {
		t.Errorf("logged %q", got)
	}
}
