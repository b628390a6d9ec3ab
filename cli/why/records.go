// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"fmt"
	"slices"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// maxRecords is how many records an Answer shows.
const maxRecords = 4

// refused are the records of all pods that are wanted, the youngest first.
func (w *World) refused(wanted func(*fleet.Refused) bool) []Record {
	all := []Record{}
	for n := range w.answered {
		for _, pod := range n.Dump.Pods {
			for i := range pod.Refused {
				if r := &pod.Refused[i]; wanted(r) {
					all = append(all, Record{n.Name, *r})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Record) int { return b.Time.Compare(a.Time) })
	return all
}

// records are those of connections between the two ends.
func (w *World) records(src source, dst destination) []Record {
	all := w.refused(func(r *fleet.Refused) bool {
		if r.Source.Name() != src.text && (!src.addr.IsValid() || r.Source.Address.Addr().Unmap() != src.addr) {
			return false
		}
		return dst.pod != nil && r.Dest.Name() == dst.pod.String() || r.Asked == dst.addr
	})
	return all[:min(len(all), maxRecords)]
}

// LastRefused explains the last connection from or to a pod that was refused.
func (w *World) LastRefused(ctx context.Context, name string) (Answer, error) {
	pod, err := w.aPod(name)
	if err != nil {
		return Answer{}, err
	}
	if pod == nil {
		return Answer{}, &Unheard{fmt.Sprintf("no node that answered knows a pod %s", name), w.like(name)}
	}
	all := w.refused(func(r *fleet.Refused) bool { return r.Source.Name() == pod.String() || r.Dest.Name() == pod.String() })
	if len(all) == 0 {
		text := fmt.Sprintf("no node that answered remembers a connection from or to %v that was refused", pod)
		return Answer{}, &Unheard{text, "connect() that is refused at once leaves no record: give SRC and DST instead"}
	}
	last := all[0]
	from, to := last.Source.Name(), last.Asked
	if !to.IsValid() {
		to = last.Dest.Address
	}
	if from == "" || !to.IsValid() {
		return Answer{}, fmt.Errorf("the record of %s does not say from where to where it went: %s", stamp(last.Time), last.Error)
	}
	a, err := w.Explain(ctx, from, to.String())
	a.Record = &last
	return a, err
}
