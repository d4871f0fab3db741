"""
Names that have a meaning in JavaScript, whether or not a record has such a field.

``tests/unit/test_record_path.py`` checks with gitsheets' engine that the list is complete.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keywords, names inside every function, and members of the global object and of every object.
IDENTIFIERS = _words(
    """
    arguments await break case catch class const continue debugger default delete do else enum
    export extends false finally for function if implements import in instanceof interface let new
    null package private protected public record return static super switch this throw true try
    typeof var void while with yield

    AggregateError Array ArrayBuffer Atomics BigInt BigInt64Array BigUint64Array Boolean DataView
    Date Error EvalError Float16Array Float32Array Float64Array Function Infinity Int16Array
    Int32Array Int8Array JSON Map Math NaN Number Object Promise Proxy RangeError ReferenceError
    Reflect RegExp Set SharedArrayBuffer String Symbol SyntaxError TypeError TypedArray URIError
    Uint16Array Uint32Array Uint8Array Uint8ClampedArray WeakMap WeakRef WeakSet decodeURI
    decodeURIComponent encodeURI encodeURIComponent escape eval globalThis isFinite isNaN parseFloat
    parseInt undefined unescape

    __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ __proto__ constructor
    hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf
    """
)
# Members of objects, strings, numbers, arrays and dates.
MEMBERS = _words(
    """
    __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ __proto__ constructor
    hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf

    anchor at big blink bold charAt charCodeAt codePointAt concat endsWith fixed fontcolor fontsize
    includes indexOf isWellFormed italics lastIndexOf length link localeCompare match matchAll
    normalize padEnd padStart repeat replace replaceAll search slice small split startsWith strike
    sub substr substring sup toLocaleLowerCase toLocaleUpperCase toLowerCase toUpperCase
    toWellFormed trim trimEnd trimLeft trimRight trimStart

    toExponential toFixed toPrecision

    copyWithin entries every fill filter find findIndex findLast findLastIndex flat flatMap forEach
    join keys map pop push reduce reduceRight reverse shift some sort splice toReversed toSorted
    toSpliced unshift values with

    getDate getDay getFullYear getHours getMilliseconds getMinutes getMonth getSeconds getTime
    getTimezoneOffset getUTCDate getUTCDay getUTCFullYear getUTCHours getUTCMilliseconds
    getUTCMinutes getUTCMonth getUTCSeconds getYear setDate setFullYear setHours setMilliseconds
    setMinutes setMonth setSeconds setTime setUTCDate setUTCFullYear setUTCHours setUTCMilliseconds
    setUTCMinutes setUTCMonth setUTCSeconds setYear toDateString toGMTString toISOString toJSON
    toLocaleDateString toLocaleTimeString toTimeString toUTCString
    """
)
