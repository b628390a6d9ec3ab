// SPDX-License-Identifier: Apache-2.0

package binaries

import "testing"

func TestOnlyPluginsThatStayAreCompiledIntoSPIRE(t *testing.T) {
	const list = `import (
	"github.com/spiffe/spire/pkg/common/catalog"
	"github.com/spiffe/spire/pkg/server/plugin/upstreamauthority"
	"github.com/spiffe/spire/pkg/server/plugin/upstreamauthority/awspca"
	"github.com/spiffe/spire/pkg/server/plugin/upstreamauthority/disk"
	cloud "github.com/spiffe/spire/pkg/server/plugin/upstreamauthority/gcpcas"
	spireplugin "github.com/spiffe/spire/pkg/server/plugin/upstreamauthority/spire"
)

func (repo *upstreamAuthorityRepository) BuiltIns() []catalog.BuiltIn {
	return []catalog.BuiltIn{
		awspca.BuiltIn(),
		spireplugin.BuiltIn(),
		disk.BuiltIn(),
		cloud.BuiltIn(),
	}
}
`
	const want = `import (
	"github.com/spiffe/spire/pkg/common/catalog"
	"github.com/spiffe/spire/pkg/server/plugin/upstreamauthority"
	"github.com/spiffe/spire/pkg/server/plugin/upstreamauthority/disk"
)

func (repo *upstreamAuthorityRepository) BuiltIns() []catalog.BuiltIn {
	return []catalog.BuiltIn{
		disk.BuiltIn(),
	}
}
`
	if got := string(trimPlugins([]byte(list), "upstreamauthority")); got != want {
		t.Errorf("got\n%s", got)
	}
}
