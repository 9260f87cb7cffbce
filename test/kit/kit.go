// Package kit is what tests share: a CA, waiting, files, JSON and PEM, counts of what
// was done, and how much effort a run makes.
package kit

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// patience is how long tests wait for what has to come.
const patience = time.Minute

// Until waits up to a minute for a condition and reports whether it came.
func Until(condition func() bool) bool {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !condition(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Eventually waits up to a minute for a condition and ends the test without it. Only
// the goroutine of the test may call it: others call Until.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !Until(condition) {
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// JSON returns the JSON of a value that always has one, such as a string.
func JSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Complete returns given, with the fields of defaults where given has zero values.
func Complete[T any](given, defaults T) T {
	into := reflect.ValueOf(&given).Elem()
	for i := range into.NumField() {
		if into.Field(i).IsZero() {
			into.Field(i).Set(reflect.ValueOf(defaults).Field(i))
		}
	}
	return given
}
