//! Replaces `${…}` in texts. Pure: the caller looks names up.

/// What stands between `${` and `}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reference<'t> {
    /// A variable of the environment, and what stands for it if it is not set.
    Variable { name: &'t str, default: Option<&'t str> },
    /// The path of a file.
    File(&'t str),
}

/// The result of an interpolation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interpolated {
    /// The text has no reference. Escapes were replaced.
    Plain(String),
    /// A reference was replaced, so the text may be a secret.
    Secret(String),
}

/// Replaces all references. Fails with what was expected instead of the first invalid one.
pub(super) fn interpolate(
    text: &str,
    look_up: &mut dyn FnMut(&Reference<'_>) -> Result<String, String>,
) -> Result<Interpolated, String> {
    let (mut replaced, mut is_secret, mut rest) = (String::with_capacity(text.len()), false, text);
    while let Some(at) = rest.find('$') {
        replaced.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            replaced.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((inner, after)) = after.split_once('}') else {
                return Err("a `}` after `${`, or `$${` for the text `${`".to_owned());
            };
            replaced.push_str(&look_up(&parse(inner)?)?);
            (is_secret, rest) = (true, after);
        } else {
            replaced.push('$');
            rest = &rest[1..];
        }
    }
    replaced.push_str(rest);
    Ok(if is_secret { Interpolated::Secret(replaced) } else { Interpolated::Plain(replaced) })
}

fn parse(inner: &str) -> Result<Reference<'_>, String> {
    if let Some(path) = inner.strip_prefix("file:") {
        let is_path = !path.trim().is_empty();
        return is_path.then_some(Reference::File(path)).ok_or("a path after `file:`".to_owned());
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_allowed);
    if name.is_empty() || !is_name {
        let expected = "`${NAME}`, `${NAME:-DEFAULT}` or `${file:PATH}`; `$${` stands for `${`";
        return Err(expected.to_owned());
    }
    Ok(Reference::Variable { name, default })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Interpolated, &str>) {
        let found = interpolate(text, &mut |reference| match reference {
            Reference::Variable { name: "USER", .. } => Ok("ada".to_owned()),
            Reference::Variable { default: Some(default), .. } => Ok((*default).to_owned()),
            Reference::Variable { name, .. } => Err(format!("variable {name}")),
            Reference::File(path) => Ok(format!("<{path}>")),
        });
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e));
    }

    #[test]
    fn references_are_replaced() {
        let secret = |text: &str| Ok(Interpolated::Secret(text.to_owned()));
        let plain = |text: &str| Ok(Interpolated::Plain(text.to_owned()));
        check("${USER}", secret("ada"));
        check("a ${USER} ${USER}!", secret("a ada ada!"));
        check("${NONE:-x y}", secret("x y"));
        check("${NONE:-}", secret(""));
        check("${USER:-x}", secret("ada"));
        check("${file:/run/a b}", secret("</run/a b>"));
        check("$${USER} costs 5$ or $5", plain("${USER} costs 5$ or $5"));
        check("", plain(""));
        check("${USER}$", secret("ada$"));
    }

    #[test]
    fn invalid_references_are_errors() {
        check("${NONE}", Err("variable NONE"));
        check("${USER", Err("a `}` after `${`, or `$${` for the text `${`"));
        let expected = "`${NAME}`, `${NAME:-DEFAULT}` or `${file:PATH}`; `$${` stands for `${`";
        for text in ["${}", "${1}", "${a-b}", "${:-x}", "${ USER }", "${ä}"] {
            check(text, Err(expected));
        }
        check("${file:}", Err("a path after `file:`"));
    }
}
