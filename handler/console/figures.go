package console

import (
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// figures are the metrics of one moment, by name.
type figures map[string][]*dto.Metric

// gather reads a registry. A metric that cannot be read is not there: its own error is
// logged where metrics are served.
func gather(registry prometheus.Gatherer) figures {
	all := figures{}
	families, _ := registry.Gather()
	for _, f := range families {
		all[f.GetName()] = f.GetMetric()
	}
	return all
}

// sum adds up a metric over the labels that keep accepts; nil accepts all. Of a histogram
// it takes the number of observations.
func (f figures) sum(name string, keep func(labels map[string]string) bool) float64 {
	total := 0.0
	for _, m := range f.of(name, keep) {
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return total
}

// observed adds up what a histogram has observed.
func (f figures) observed(name string, keep func(labels map[string]string) bool) float64 {
	total := 0.0
	for _, m := range f.of(name, keep) {
		total += m.GetHistogram().GetSampleSum()
	}
	return total
}

func (f figures) of(name string, keep func(labels map[string]string) bool) []*dto.Metric {
	return slices.DeleteFunc(slices.Clone(f[name]), func(m *dto.Metric) bool { return keep != nil && !keep(labelsOf(m)) })
}

// by returns a metric by one of its labels.
func (f figures) by(name, label string) map[string]float64 {
	values := map[string]float64{}
	for _, m := range f[name] {
		values[labelsOf(m)[label]] += m.GetGauge().GetValue()
	}
	return values
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range m.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}

// is accepts one value of a label.
func is(label, value string) func(map[string]string) bool {
	return func(labels map[string]string) bool { return labels[label] == value }
}

// asked accepts requests that somebody made, and not those of probes.
func asked(labels map[string]string) bool {
	return !slices.Contains([]string{"/healthz", "/readyz", "/metrics"}, labels["route"])
}

func failed(labels map[string]string) bool {
	return asked(labels) && strings.HasPrefix(labels["code"], "5")
}

// refused accepts logins and passwords that were not taken. A page that asks who is signed
// in is no such attempt.
func refused(labels map[string]string) bool {
	return (labels["method"] == "basic" || labels["method"] == "form") && labels["outcome"] != "success"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
