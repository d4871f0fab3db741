// Node resolves modules by their whole names.
export default { output: { path: "hey", importFileExtension: ".js" } };
