//! Setters of option structs.

/// Implements a `with_*` setter for each public field of an option struct.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($options:ident { $($setter:ident => $field:ident: $type:ty,)+ }) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $setter(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}
