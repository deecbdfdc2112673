//! What a program says it can do, in our protocol and in the two older dialects: text in, values out.
