// QuPath 0.4 or newer: Automate > Script editor. Restores the selected rectangle of the image, and
// adds the result to the project. It calls the command `napari-dip`.
import groovy.json.JsonSlurper
import qupath.lib.projects.Projects
import qupath.lib.regions.RegionRequest
import static qupath.lib.gui.scripting.QPEx.*

def command = "napari-dip" // or its full path
def options = ["--preset", "fast"]

def annotation = getSelectedObject()
if (annotation == null || !annotation.isAnnotation()) {
    println "Select an annotation first: what lies in its bounds is restored."
    return
}
def folder = buildFilePath(PROJECT_BASE_DIR, "napari-dip")
mkdirs(folder)
def name = getProjectEntry().getImageName().replaceAll(/[^\w.-]/, "_") + "_" + annotation.getID().toString().take(8)
def input = buildFilePath(folder, name + "_in.tif")
def output = buildFilePath(folder, name + ".ome.tif")
def report = buildFilePath(folder, name + ".json")
def server = getCurrentServer()
writeImageRegion(server, RegionRequest.createInstance(server.getPath(), 1.0d, annotation.getROI()), input)

def call = [command, "denoise", input, "-o", output, "--report", report, "--overwrite"] + options
def process = new ProcessBuilder(call).redirectErrorStream(true).start()
process.inputStream.eachLine { println it }
def code = process.waitFor() // 0 done, 2 refused before any work, 1 failed, 130 interrupted
if (code != 0) {
    println "napari-dip ended with ${code}; the lines above say why."
    return
}
def verdict = new JsonSlurper().parse(new File(report)).verdict
(verdict?.warnings ?: verdict?.sentences ?: []).each { println it }
println "Saved: ${output}. Drag it onto QuPath to add it to the project."
